"""Quantizers of activations whose step size is trained, and that set in little by little.

    y = p x + (1 - p) s (clip(round(x / s) + z, 0, 2^b - 1) - z)

Rounding passes gradients on as if it were not there; the step size gets the gradient of Esser et
al., *Learned Step Size Quantization*, arXiv 1902.08153. p falls from 1 to 0 (EPTQ's gradual
activation quantization), or every value stays in floating point by chance (QDrop, arXiv
2203.05740).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quant.activations import INPUT, OUTPUT, FakeQuantize, Place
from quant.grid import snapped
from quant.ranges import TensorGrid


class LearnedQuantize(nn.Module):
    """Takes the place of a `FakeQuantize` while its step size is trained.

    Attributes:
        keep: the fraction p of the float value that stays; or, with `drop`, the probability.
        drop: draw anew for each value instead of mixing.
    """

    zero: Tensor

    def __init__(self, start: FakeQuantize) -> None:
        super().__init__()
        self.bits, self.keep, self.drop = start.bits, 0.0, False
        self.log_scale = nn.Parameter(start.scale.log())
        self.register_buffer("zero", start.zero.clone())
        self.range = start.range
        self.seed = 0  # of the draws; set anew for every step

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the shape stays."""
        if self.keep == 1:
            return x
        scale = self.log_scale.exp().to(x.dtype)
        keep: Any = self.keep
        if self.drop and self.keep > 0:
            generator = torch.Generator(x.device).manual_seed(self.seed)
            drawn = torch.rand(x.shape, generator=generator, device=x.device)
            keep = (drawn < self.keep).to(x)
        y: Tensor = _Quantize.apply(x, scale, *self.range, keep)
        return y

    def grid(self) -> TensorGrid:
        """As trained so far."""
        return TensorGrid(self.log_scale.detach().exp(), self.zero, self.bits)


def learned(model: nn.Module) -> dict[Place, LearnedQuantize]:
    """Exchange all quantizers of activations in `model`, in place."""
    found = {}
    for name, module in list(model.named_modules()):
        for attribute in (INPUT, OUTPUT):
            start = getattr(module, attribute, None)
            if isinstance(start, FakeQuantize):
                found[Place(name, attribute == OUTPUT)] = LearnedQuantize(start)
                setattr(module, attribute, found[Place(name, attribute == OUTPUT)])
    return found


class _Quantize(torch.autograd.Function):
    """Keeps nothing but its input for the way back, and passes over it as few times as it can."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: float, high: float, keep: Any) -> Tensor:
        mask = keep if isinstance(keep, Tensor) else None
        ctx.save_for_backward(x, scale, mask)
        ctx.low, ctx.high, ctx.keep = low, high, keep if mask is None else None
        y = snapped(x, scale, low, high)
        return y if mask is None and keep == 0 else y.lerp_(x, keep)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        x, scale, mask = ctx.saved_tensors
        keep = ctx.keep if mask is None else mask
        mixed = mask is not None or keep > 0
        rounded = g * (1 - keep) if mixed else g
        u = x / scale
        code = u.round().clamp_(ctx.low, ctx.high)
        inside = torch.ops.aten.hardtanh_backward(rounded, u, ctx.low - 0.5, ctx.high + 0.5)
        outside = rounded - inside
        to_scale = (code - u).mul_(inside).sum() + outside.mul_(code).sum()
        return inside + g * keep if mixed else inside, to_scale, None, None, None
