"""Choosing for every weight between two neighbouring codes by gradient descent.

    W = s (base + h - z),    h = clip(1.2 sigmoid(a) - 0.1, 0, 1)

h moves between 0 and 1 while a is trained; a regulariser drives it to either end, and the rule
a >= 0 decides. Source: Nagel et al., *Up or Down? Adaptive Rounding* (AdaRound), arXiv 2004.10568.
Ours: the pair of codes is the one that holds a given solution, so training starts there; and a
variant that is decided all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from quant.grid import Grid
from quant.layers import from_matrix

LOW, HIGH = -0.1, 1.1  # of the stretched sigmoid


class Rounding(nn.Module):
    """A parametrization (torch.nn.utils.parametrize) of one weight, whose codes are trained.

    Attributes:
        a: what is trained, [g, r, c].
        log_scale: logarithms of the step sizes.
        hard: use the decided codes instead of what training uses.
    """

    zero: Tensor

    def __init__(self, a: Tensor, grid: Grid, shape: Iterable[int]) -> None:
        """`shape`: of the weight in the network."""
        super().__init__()
        self.hard = False
        self.bits, self.shape, self.width = grid.bits, tuple(shape), grid.width
        self.a = nn.Parameter(a)
        self.log_scale = nn.Parameter(grid.scale.log())
        self.register_buffer("zero", grid.zero.clone())

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def grid(self) -> Grid:
        """With the step sizes as they are trained."""
        return Grid(self.log_scale.exp(), self.zero, self.bits, self.width)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as training uses it, or as decided; the stored one is not looked at."""
        codes = self.codes() if self.hard else self.training_codes()
        return from_matrix(self.grid().decode(codes), self.shape)

    def training_codes(self) -> Tensor:
        """Codes [g, r, c] through which gradients reach `a`."""
        raise NotImplementedError

    def codes(self) -> Tensor:
        """The decided codes [g, r, c], whole numbers on the grid."""
        raise NotImplementedError

    def undecided(self, beta: float) -> Tensor | None:
        """A regulariser that vanishes where all is decided, if the kind needs one."""
        return None


class SoftRounding(Rounding):
    """AdaRound's: somewhere between two codes, until the regulariser has driven it to one."""

    base: Tensor

    def __init__(
        self, W: Tensor, codes: Tensor, grid: Grid, shape: Iterable[int], confidence: float
    ) -> None:
        """Start at `codes`.

        Args:
            W: float weights [g, r, c]; they tell which neighbour of a code is the other choice.
            codes: [g, r, c] to start from.
            grid: of the codes.
            shape: of the weight in the network.
            confidence: how far from undecided a weight starts at least, 0 (undecided) ... 1; where
                the code is the nearest one, h starts at the weight itself if that is farther.
        """
        scale, zero = grid.spread(W.shape[-1])
        u = W / scale + zero
        base = torch.where(u >= codes, codes, codes - 1).clamp(0, max(grid.top - 1, 0))
        side = (codes > base).to(W.dtype) * 2 - 1
        away = ((u - base - 0.5) * side).clamp(max(confidence / 2, 0.001), 0.499)
        super().__init__(logit(0.5 + side * away), grid, shape)
        self.register_buffer("base", base)

    def h(self) -> Tensor:
        """Where between the two codes, [g, r, c] in 0 ... 1."""
        return ((HIGH - LOW) * self.a.sigmoid() + LOW).clamp(0, 1)

    def training_codes(self) -> Tensor:
        return self.base + self.h()

    @torch.no_grad()
    def codes(self) -> Tensor:
        return (self.base + (self.a >= 0)).clamp(0, self.top)

    def undecided(self, beta: float) -> Tensor:
        return undecided(self.h(), beta)


class StraightThroughRounding(Rounding):
    """Ours: always decided; a code moves once the sum of its gradients has carried `a` far enough.

    The gradient passes through the rounding as if it were not there (Bengio et al., arXiv
    1308.3432). So training starts at the given solution, and what is trained with it (biases,
    step sizes) never fits a network that is not there in the end.
    """

    def __init__(
        self, W: Tensor, codes: Tensor, grid: Grid, shape: Iterable[int], confidence: float
    ) -> None:
        """Start at `codes`, from the float weight's side: at most (1 - confidence) / 2 away."""
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
    """a, such that h = clip(1.2 sigmoid(a) - 0.1, 0, 1), for h in 0 ... 1."""
    p = (h - LOW) / (HIGH - LOW)
    return torch.log(p / (1 - p))


def undecided(h: Tensor, beta: float) -> Tensor:
    """The regulariser: sum of 1 - |2 h - 1|^beta, which is 0 where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(progress: float, start: float, end: float, warmup: float) -> float:
    """The exponent at `progress` 0 ... 1: `start` until `warmup`, then linearly to `end`."""
    share = max(0.0, progress - warmup) / (1 - warmup)
    return start + (end - start) * share
