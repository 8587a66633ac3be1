"""Activation ranges: histograms of a tensor's values in bounded memory, and grids fitted to them.

The histogram covers -R ... R, where R is a power of two that doubles whenever a value exceeds it,
so the result does not depend on batch size or order. Sources of the fits: Nagel et al., *A White
Paper on Neural Network Quantization*, arXiv 2106.08295, section 3.1 (min-max, mean squared error);
NVIDIA, *8-bit Inference with TensorRT*, GTC 2017 (percentile).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quant.grid import ONE_BIT, snapped

SEARCHES = ("minmax", "percentile", "mse")
BINS = 4096  # over the whole range, half of them for each sign
STEPS = 100  # fractions of the range tried by each of the scans of "mse"


@dataclass(eq=False)
class Histogram:
    """Value counts [BINS], and the exact minimum and maximum; 0 always lies between the two."""

    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    reach: float = 0.0  # R; 0 until the first nonzero value
    low: float = 0.0
    high: float = 0.0

    def add(self, x: Tensor) -> None:
        """Count all values of x.

        Raises:
            ValueError: x holds NaN or infinite values.
        """
        low, high = (float(v) for v in torch.aminmax(x.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                "activations hold NaN or infinite values: check the weights and the images, or "
                "use machine.precision=32-true"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        reach = self.reach or 1.0
        half = BINS // 2  # a power of two, like R, so that the bin index is exact
        # an integer before it is clamped: half - 1 is no bfloat16
        index = (x.detach().flatten() * (half / reach)).floor_().long().clamp_(-half, half - 1)
        self.counts += torch.bincount(index + half, minlength=BINS).cpu()

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of the values of both."""
        total = Histogram(self.counts.clone(), self.reach, self.low, self.high)
        total._widen(other.reach)
        addend = Histogram(other.counts.clone(), other.reach)
        addend._widen(total.reach)
        total.counts += addend.counts
        total.low, total.high = min(self.low, other.low), max(self.high, other.high)
        return total

    def _widen(self, largest: float) -> None:
        if largest == 0 or largest <= self.reach:
            return
        reach = 2.0 ** math.ceil(math.log2(largest))
        if self.reach == 0:  # only zeros so far, which stay in the middle
            self.reach = reach
            return
        while self.reach < reach:  # merge pairs of bins into the middle half
            half = BINS // 4
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = torch.nn.functional.pad(merged, (half, half))
            self.reach *= 2

    def centres(self) -> Tensor:
        """The centre of every bin [BINS]."""
        reach = self.reach or 1.0
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * reach / BINS) - reach

    def quantile(self, q: float) -> float:
        """The q-quantile of all values, rounded up to the edge of its bin."""
        reached = self.counts.cumsum(0) >= q * self.counts.sum()
        index = int(reached.to(torch.uint8).argmax())
        return float(self.centres()[index]) + (self.reach or 1.0) / BINS


@dataclass(frozen=True, eq=False)
class TensorGrid:
    """A uniform affine grid with one step size for the whole tensor.

    Attributes:
        scale: step size, a positive scalar tensor.
        zero: zero point (the code of the value 0), a scalar tensor.
        bits: bit width; codes are 0 ... 2**bits - 1.
    """

    scale: Tensor
    zero: Tensor
    bits: int

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest code minus the zero point, as floats: clamping by those is fast."""
        zero = float(self.zero)
        return -zero, 2**self.bits - 1 - zero

    def round(self, x: Tensor) -> Tensor:
        """The values nearest to x on the grid."""
        return snapped(x, self.scale.to(x), *self.range)


def fit(
    histogram: Histogram, bits: int, *, symmetric: bool, search: str, percentile: float
) -> TensorGrid:
    """Fit a grid to the values of a histogram. It always contains 0, so padding stays exact.

    Args:
        histogram: values of the tensor.
        bits: bit width, 1 ... 16.
        symmetric: centre the codes on 0, for 2 bits or more; the last code is the largest value.
        search: range of the grid: "minmax" covers all values, "percentile" clips both tails, "mse"
            minimises the squared error.
        percentile: for "percentile", where to clip the upper tail, in (50, 100]; the lower tail is
            clipped at 100 - percentile.

    Raises:
        ValueError: an argument outside the values above.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"act_bits={bits} must lie in 1 ... 16")
    if search not in SEARCHES:
        raise ValueError(f"activations.search={search!r} must be one of {', '.join(SEARCHES)}")
    if not 50 < percentile <= 100:
        raise ValueError(f"activations.percentile={percentile} must lie in (50, 100]")
    low, high = histogram.low, histogram.high
    if search == "percentile":
        share = percentile / 100
        low = max(low, min(0.0, histogram.quantile(1 - share)))
        high = min(high, max(0.0, histogram.quantile(share)))
    if symmetric and bits == 1:
        raise ValueError(ONE_BIT)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if search == "mse":
        low, high = _least_error(histogram, low, high, bits, symmetric)
    elif symmetric:
        low, high = _up_to_the_last_code(low, high, bits)
    return _grid(low, high, bits, symmetric)


def _least_error(
    histogram: Histogram, low: float, high: float, bits: int, symmetric: bool
) -> tuple[float, float]:
    """The range with the least squared error: shrink both ends together, then each separately."""
    occupied = histogram.counts > 0
    values, counts = histogram.centres()[occupied], histogram.counts[occupied]

    def error(ends: tuple[float, float]) -> float:
        q = _grid(*ends, bits, symmetric).round(values)
        return float(((q - values) ** 2 * counts).sum())

    shares = [1 - i / STEPS for i in range(STEPS)]
    best = min(((p * low, p * high) for p in shares), key=error)
    if symmetric:
        return min((best, _up_to_the_last_code(low, high, bits)), key=error)
    best = min((best, *((best[0], p * high) for p in shares)), key=error)
    return min((best, *((p * low, best[1]) for p in shares)), key=error)


def _up_to_the_last_code(low: float, high: float, bits: int) -> tuple[float, float]:
    """The symmetric range whose last code is `high`: there is one code more below 0 than above."""
    wider = (2**bits - 1) / (2**bits - 2)
    return wider * low, wider * high


def _grid(low: float, high: float, bits: int, symmetric: bool) -> TensorGrid:
    if high - low <= torch.finfo(torch.float32).tiny * 2**bits:  # all values are (almost) 0
        low, high = (-1.0, 1.0) if symmetric else (0.0, 1.0)
    scale = torch.tensor((high - low) / (2**bits - 1), dtype=torch.float64)
    zero = torch.tensor(float(2 ** (bits - 1))) if symmetric else torch.round(-low / scale)
    return TensorGrid(scale, zero.double(), bits)
