"""Uniform affine grids and the fitting of their scales.

    Q(w) = s (clip(round(w / s) + z, 0, 2^b - 1) - z)

Letters: g groups, r output rows, c input columns, k column groups of a grid (1 unless the
granularity is "group"). Source of the fits: Frantar et al., arXiv 2208.11580, and its code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

ONE_BIT = (
    "symmetric=true needs at least 2 bits: one bit around 0 has the values -1 and 0 only, so that "
    "no positive value could be kept"
)
FEW = 3  # bits up to which the zero code's neighbours are tried
GRANULARITIES = ("channel", "tensor", "group")


def nearest(W: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """The values nearest to W on the grid with codes 0 ... top; all arguments broadcast."""
    return snapped(W, scale, -zero, top - zero)


def snapped(W: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
    """The values nearest to W among low * scale ... high * scale: `nearest` for inner loops.

    low and high are either both tensors or both numbers.
    """
    return (W / scale).round_().clamp_(low, high).mul_(scale)


@dataclass(frozen=True, eq=False)
class Grid:
    """The allowed values of a weight matrix W [g, r, c].

    Attributes:
        scale: step sizes [g, r, k], positive; a second dimension of 1 broadcasts over rows.
        zero: zero points (the code of the value 0) as floats, in the shape of `scale`.
        bits: bit width; codes are 0 ... 2**bits - 1.
        group_size: number of columns that share a step size; None means all of them (k = 1).
    """

    scale: Tensor
    zero: Tensor
    bits: int
    group_size: int | None = None

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    @property
    def symmetric(self) -> bool:
        """Whether the codes are centred on 0: signed integers without a zero point."""
        return self.bits > 1 and bool((self.zero == 2 ** (self.bits - 1)).all())

    def columns(self, index: Tensor) -> Grid:
        """The grid of the columns `index` [g, m], in that order."""
        if self.group_size is None:
            return self
        k = (index // self.group_size)[:, None].expand(-1, self.scale.shape[1], -1)
        return replace(
            self, scale=self.scale.gather(2, k), zero=self.zero.gather(2, k), group_size=1
        )

    def codes(self, W: Tensor) -> Tensor:
        """The nearest codes to W [g, r, c], as whole numbers in W's dtype."""
        scale, zero = self.spread(W.shape[-1])
        return (W / scale).round_().add_(zero).clamp_(0, self.top)

    def decode(self, codes: Tensor) -> Tensor:
        """Dequantize `codes` [g, r, c]."""
        scale, zero = self.spread(codes.shape[-1])
        return (codes - zero) * scale

    def round(self, W: Tensor) -> Tensor:
        """The values nearest to W [g, r, c] on the grid."""
        return nearest(W, *self.spread(W.shape[-1]), self.top)

    def rows(self, index: Tensor) -> Grid:
        """The grid of the output rows `index` of every group."""
        if self.scale.shape[1] == 1:
            return self
        return replace(self, scale=self.scale[:, index], zero=self.zero[:, index])

    def by_column(self, rows: int, c: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each of c columns, the scale, low and high of `snapped`, [g, rows] each."""
        scale, zero = (t.expand(-1, rows, -1) for t in self.spread(c))
        low, high = -zero, self.top - zero
        parts = zip(*(t.unbind(2) for t in (scale, low, high)), strict=True)
        return cycle(parts) if self.group_size is None else parts

    def spread(self, c: int) -> tuple[Tensor, Tensor]:
        """Step sizes and zero points of c columns, both broadcastable to [g, r, c]."""
        if self.group_size is None or self.group_size == 1:
            return self.scale, self.zero
        k = torch.arange(c, device=self.scale.device) // self.group_size
        return self.scale[..., k], self.zero[..., k]


def fit(
    W: Tensor,
    bits: int,
    *,
    granularity: str,
    symmetric: bool,
    search: str,
    group_size: int = 128,
    norm: float = 2.4,
    shrink: int = 80,
    importance: Tensor | None = None,
) -> Grid:
    """Fit a grid to W [g, r, c].

    Args:
        W: weights.
        bits: bit width, 1 ... 16.
        granularity: what shares a step size: "channel" (a row of W), "tensor", or "group"
            (`group_size` columns of a row).
        symmetric: centre the codes on 0, from -2^(bits-1) to 2^(bits-1) - 1 steps, for 2 bits or
            more; else the range is min ... max, extended to include 0.
        search: "minmax" takes the full range; of a symmetric grid, the one whose last code is
            max |w|. "mse" and "hmse" try `shrink` fractions of a range (1.00, 0.99, ...) too, and
            minimise sum |w - q|^norm (OBC's code) or sum h (w - q)^2 (EPTQ). That range is OBC's:
            a symmetric one is 2 max |w| wide. With up to 3 bits, where it matters, the neighbours
            of the zero code are tried as well, which OBC's code does not.
        group_size: columns per step size, for granularity "group" only.
        norm: exponent of the "mse" error.
        shrink: number of ranges that "mse" and "hmse" try.
        importance: h >= 0 [g, r, c] for "hmse".

    Raises:
        ValueError: an argument outside the values above, or W not finite.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits} must lie in 1 ... 16")
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity={granularity!r} must be one of {', '.join(GRANULARITIES)}")
    if symmetric and bits == 1:
        raise ValueError(ONE_BIT)
    if search not in ("minmax", "mse", "hmse"):
        raise ValueError(f"search={search!r} must be minmax, mse or hmse")
    if search == "hmse" and importance is None:
        raise ValueError("search='hmse' needs the importance of every weight")
    if not W.isfinite().all():
        raise ValueError("the weights hold NaN or infinite values: is the checkpoint damaged?")
    samples, shape = _samples(W, granularity, group_size)
    low = samples.amin(-1).clamp(max=0)
    high = samples.amax(-1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    empty = (high - low) / 2 ** (bits + 3) == 0  # the step size would underflow
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    scale, zero = _full(low, high, bits, symmetric)
    if search != "minmax":
        power, weighting = norm, None
        if search == "hmse" and importance is not None:
            power, weighting = 2.0, _weighting(importance, granularity, group_size)
        best = torch.full_like(scale, torch.inf)
        for s, z in _candidates(low, high, bits, symmetric, shrink):
            q = nearest(samples, s[..., None], z[..., None], 2**bits - 1)
            error = q.sub_(samples).abs_().pow_(power)
            error = (error if weighting is None else error.mul_(weighting)).sum(-1)
            better = error < best
            best = torch.where(better, error, best)
            scale, zero = torch.where(better, s, scale), torch.where(better, z, zero)
    return Grid(
        scale.reshape(shape),
        zero.reshape(shape),
        bits,
        group_size if granularity == "group" else None,
    )


def _candidates(
    low: Tensor, high: Tensor, bits: int, symmetric: bool, shrink: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Step sizes and zero points to try; of equally good ones, the first is taken."""
    zeros = (0, -1, 1) if bits <= FEW and not symmetric else (0,)
    for shift in zeros:
        for i in range(shrink):  # 1.00, 0.99, ..., as in OBC's code
            p = 1 - i / 100
            s, z = _affine(p * low, p * high, bits, symmetric)
            yield s, (z + shift).clamp_(0, 2**bits - 1)
    if symmetric:
        yield _full(low, high, bits, symmetric)


def _full(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The grid that holds both ends of the range, up to rounding of the zero code."""
    scale, zero = _affine(low, high, bits, symmetric)
    return (high / (2 ** (bits - 1) - 1), zero) if symmetric else (scale, zero)


def _weighting(importance: Tensor, granularity: str, group_size: int) -> Tensor:
    """Weights of the samples; uniform for a step size whose importance is all zero."""
    h, _ = _samples(importance, granularity, group_size)
    return torch.where(h.sum(-1, keepdim=True) > 0, h, 1.0)


def _samples(W: Tensor, granularity: str, group_size: int) -> tuple[Tensor, tuple[int, ...]]:
    """W with the weights that share a step size in the last dimension, and the scale's shape."""
    g, r, c = W.shape
    if granularity == "tensor":
        return W.reshape(1, -1), (1, 1, 1)
    if granularity == "channel":
        return W, (g, r, 1)
    if group_size < 1:
        raise ValueError(f"group_size={group_size} must be at least 1 column")
    k = -(-c // group_size)
    padded = torch.nn.functional.pad(W, (0, k * group_size - c))  # every range contains 0
    return padded.reshape(g, r, k, group_size), (g, r, k)


def _affine(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    scale = (high - low) / (2**bits - 1)
    if symmetric:
        return scale, torch.full_like(scale, float(2 ** (bits - 1)))
    return scale, torch.round(-low / scale)
