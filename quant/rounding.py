"""Learned rounding: gradient descent chooses between two neighbouring codes for each weight.

    W = s (base + h - z),    h = clip(1.2 sigmoid(a) - 0.1, 0, 1)

Training a moves h between 0 and 1, a regulariser drives h to either end, and the sign of a decides.
Source: Nagel et al., *Up or Down? Adaptive Rounding* (AdaRound), arXiv 2004.10568. Two things are
ours: the two codes include that of a given solution, where training starts; and a variant whose
codes are hard throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from quant.grid import Grid
from quant.layers import from_matrix

LOW, HIGH = -0.1, 1.1  # range of the stretched sigmoid


class Rounding(nn.Module):
    """A parametrization (torch.nn.utils.parametrize) of one weight with trained codes.

    Attributes:
        a: trained rounding variables [g, r, c].
        log_scale: trained logarithms of the step sizes.
        hard: use the final integer codes instead of those for training.
    """

    zero: Tensor

    def __init__(self, a: Tensor, grid: Grid, shape: Iterable[int]) -> None:
        """Start from `a`, for a weight of `shape` in the network."""
        super().__init__()
        self.hard = False
        self.bits, self.shape, self.group_size = grid.bits, tuple(shape), grid.group_size
        self.a = nn.Parameter(a)
        self.log_scale = nn.Parameter(grid.scale.log())
        self.register_buffer("zero", grid.zero.clone())

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def grid(self) -> Grid:
        """The grid with the step sizes as trained so far."""
        return Grid(self.log_scale.exp(), self.zero, self.bits, self.group_size)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight from the trained codes; the stored `weight` is ignored."""
        codes = self.codes() if self.hard else self.training_codes()
        return from_matrix(self.grid().decode(codes), self.shape)

    def training_codes(self) -> Tensor:
        """Codes [g, r, c] that pass gradients to `a`."""
        raise NotImplementedError

    def codes(self) -> Tensor:
        """The final (hard) codes [g, r, c], whole numbers on the grid."""
        raise NotImplementedError

    def regulariser(self, beta: float) -> Tensor | None:
        """A penalty on soft codes, which vanishes once all are hard; None if not needed."""
        return None


class SoftRounding(Rounding):
    """AdaRound: soft codes between two neighbours, driven to one of them by the regulariser."""

    base: Tensor

    def __init__(
        self, W: Tensor, codes: Tensor, grid: Grid, shape: Iterable[int], confidence: float
    ) -> None:
        """Start at `codes`.

        Args:
            W: float weights [g, r, c]; the second code is the neighbour on the weight's side.
            codes: initial codes [g, r, c].
            grid: grid of the codes.
            shape: shape of the weight in the network.
            confidence: minimum initial |2 h - 1|, from 0 (undecided) to 1 (hard). If the code is
                the nearest one, h starts at the weight's own position where that is more decided.
        """
        scale, zero = grid.spread(W.shape[-1])
        u = W / scale + zero
        base = torch.where(u >= codes, codes, codes - 1).clamp(0, max(grid.top - 1, 0))
        side = (codes > base).to(W.dtype) * 2 - 1
        away = ((u - base - 0.5) * side).clamp(max(confidence / 2, 0.001), 0.499)
        super().__init__(logit(0.5 + side * away), grid, shape)
        self.register_buffer("base", base)

    def h(self) -> Tensor:
        """Position between the two codes, [g, r, c] in 0 ... 1."""
        return ((HIGH - LOW) * self.a.sigmoid() + LOW).clamp(0, 1)

    def training_codes(self) -> Tensor:
        return self.base + self.h()

    @torch.no_grad()
    def codes(self) -> Tensor:
        return (self.base + (self.a >= 0)).clamp(0, self.top)

    def regulariser(self, beta: float) -> Tensor:
        return rounding_regulariser(self.h(), beta)


class StraightThroughRounding(Rounding):
    """Ours: hard codes throughout; a code changes once its gradients have moved `a` far enough.

    Gradients pass the rounding by the straight-through estimator (Bengio et al., arXiv 1308.3432).
    So training starts exactly at the given solution, and biases and step sizes are trained for the
    final hard codes, not for soft ones.
    """

    def __init__(
        self, W: Tensor, codes: Tensor, grid: Grid, shape: Iterable[int], confidence: float
    ) -> None:
        """Start at `codes`, with `a` offset towards the float weight by <= (1 - confidence) / 2."""
        scale, zero = grid.spread(W.shape[-1])
        reach = min((1 - confidence) / 2, 0.499)
        super().__init__(codes + (W / scale + zero - codes).clamp(-reach, reach), grid, shape)

    def training_codes(self) -> Tensor:
        a = self.a.clamp(0, self.top)
        return a + (a.round() - a).detach()

    @torch.no_grad()
    def codes(self) -> Tensor:
        return self.a.clamp(0, self.top).round()


KINDS: Mapping[str, Callable[..., Rounding]] = {
    "soft": SoftRounding,
    "straight": StraightThroughRounding,
}


def logit(h: Tensor) -> Tensor:
    """The a with h = clip(1.2 sigmoid(a) - 0.1, 0, 1), for h in 0 ... 1."""
    p = (h - LOW) / (HIGH - LOW)
    return torch.log(p / (1 - p))


def rounding_regulariser(h: Tensor, beta: float) -> Tensor:
    """Sum of 1 - |2 h - 1|^beta, which is 0 if every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(progress: float, start: float, end: float, warmup: float) -> float:
    """The exponent at `progress` in 0 ... 1: `start` until `warmup`, then linear to `end`."""
    share = max(0.0, progress - warmup) / (1 - warmup)
    return start + (end - start) * share
