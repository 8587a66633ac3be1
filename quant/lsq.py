"""Activation quantizers with a learned step size and a gradual start.

    y = p x + (1 - p) s (clip(round(x / s) + z, 0, 2^b - 1) - z)

Rounding uses the straight-through estimator; the step size gets the gradient of Esser et al.,
*Learned Step Size Quantization*, arXiv 1902.08153. p falls from 1 to 0 (EPTQ's gradual activation
quantization), or each value stays in floating point with probability p (QDrop, arXiv 2203.05740).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quant.activations import INPUT, OUTPUT, FakeQuantize, Place
from quant.grid import snapped
from quant.ranges import TensorGrid


class LearnedQuantize(nn.Module):
    """Replaces a `FakeQuantize` while its step size is trained.

    Attributes:
        keep: p, the weight of the float value, or with `drop` the probability of keeping it.
        drop: choose between float and quantized value at random instead of mixing them (QDrop).
        seed: seed for the random choices; the caller sets it at every step.
    """

    zero: Tensor

    def __init__(self, start: FakeQuantize) -> None:
        super().__init__()
        self.bits, self.keep, self.drop = start.bits, 0.0, False
        self.log_scale = nn.Parameter(start.scale.log())
        self.register_buffer("zero", start.zero.clone())
        self.range = start.range
        self.seed = 0

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, of any shape."""
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
        """The grid with the step size as trained so far."""
        return TensorGrid(self.log_scale.detach().exp(), self.zero, self.bits)


def make_learnable(model: nn.Module) -> dict[Place, LearnedQuantize]:
    """Replace all activation quantizers in `model` in place; return the new ones by place."""
    quantizers = {}
    for name, module in list(model.named_modules()):
        for attribute in (INPUT, OUTPUT):
            start = getattr(module, attribute, None)
            if isinstance(start, FakeQuantize):
                quantizer = LearnedQuantize(start)
                quantizers[Place(name, attribute == OUTPUT)] = quantizer
                setattr(module, attribute, quantizer)
    return quantizers


class _Quantize(torch.autograd.Function):
    """Saves little more than its input for the backward pass, in as few passes as possible."""

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
