"""Streaming layer Hessians: H = (2/n) X X^T over all positions of all images.

The sums are taken around the mean of the first batch, in X's precision, and accumulated in float64:
so the result hardly depends on the batch size, and the centred Hessian, (2/n) (X - m)(X - m)^T with
the mean m, keeps its digits even where m is a thousand times the deviation. Memory does not grow
with the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TERMS = 1024  # positions in one product: longer sums in float32 lose digits
UNSEEN = "no input was seen: the layer did not run on the calibration images"


@dataclass(eq=False)
class HessianSum:
    """Running sum of (X - s)(Y - t)^T over batches; Y = X gives the Hessian.

    Attributes:
        total: the sum [g, c, c], float64; None before the first batch.
        inputs, others: sums of X - s and of Y - t over all positions [g, c], float64.
        shift, other_shift: s and t [g, c]: the means of the first batch.
        n: number of positions.
    """

    total: Tensor | None = None
    inputs: Tensor | None = None
    others: Tensor | None = None
    shift: Tensor | None = None
    other_shift: Tensor | None = None
    n: int = 0

    def add(self, X: Tensor, Y: Tensor | None = None) -> None:
        """Add n positions: X, Y [g, c, n]."""
        g, c, n = X.shape
        if self.total is None:
            self.total = torch.zeros(g, c, c, dtype=torch.float64, device=X.device)
            self.inputs, self.others = (self.total.new_zeros(g, c) for _ in range(2))
            self.shift = _mean(X)
            self.other_shift = self.shift if Y is None else _mean(Y)
        assert self.inputs is not None and self.others is not None  # as total
        assert self.shift is not None and self.other_shift is not None
        X = X - self.shift[:, :, None].to(X.dtype)
        sums = X.sum(2, dtype=torch.float64)
        self.inputs += sums
        if Y is None:
            Y = X
            self.others += sums
        else:
            Y = Y - self.other_shift[:, :, None].to(Y.dtype)
            self.others += Y.sum(2, dtype=torch.float64)
        for x, y in zip(torch.split(X, TERMS, 2), torch.split(Y, TERMS, 2), strict=True):
            self.total += x @ y.mT
        self.n += n

    def around(self, shift: Tensor, other_shift: Tensor) -> HessianSum:
        """The same sums around other values, float64 [g, c] each."""
        total, inputs, others, s, t = self._sums()
        a, b = s - shift, t - other_shift
        moved = (
            total
            + inputs[:, :, None] * b[:, None, :]
            + a[:, :, None] * others[:, None, :]
            + self.n * a[:, :, None] * b[:, None, :]
        )
        return HessianSum(
            moved, inputs + self.n * a, others + self.n * b, shift, other_shift, self.n
        )

    def covariance(self) -> Tensor:
        """(2/n) sum (X - m)(Y - k)^T with the means m and k, [g, c, c], float64.

        Raises:
            ValueError: no data was added.
        """
        total, inputs, others, *_ = self._sums()
        C = (total - inputs[:, :, None] * others[:, None, :] / self.n) * (2 / self.n)
        return (C + C.mT) / 2 if self._own else C

    def mean(self) -> Tensor:
        """(2/n) sum X Y^T [g, c, c], float64; exactly symmetric if Y is X."""
        return uncentred(self.covariance(), self.input_mean(), self.other_mean())

    def hessian(self) -> Tensor:
        """`mean`, made exactly symmetric."""
        H = self.mean()
        return (H + H.mT) / 2

    def input_mean(self) -> Tensor:
        """Mean of X over all positions [g, c], float64."""
        _, inputs, _, s, _ = self._sums()
        return s + inputs / self.n

    def other_mean(self) -> Tensor:
        """Mean of Y over all positions [g, c], float64."""
        _, _, others, _, t = self._sums()
        return t + others / self.n

    @property
    def _own(self) -> bool:
        """Whether Y has always been X."""
        return self.shift is not None and self.shift is self.other_shift

    def _sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        if self.total is None or self.inputs is None or self.others is None or self.n == 0:
            raise ValueError(UNSEEN)
        assert self.shift is not None and self.other_shift is not None  # as total
        return self.total, self.inputs, self.others, self.shift, self.other_shift


def uncentred(C: Tensor, mean: Tensor, other: Tensor | None = None) -> Tensor:
    """The Hessian of the inputs as they are from that without their mean: C + 2 m k^T.

    C [g, c, c], the means of X and Y [g, c]; k is m without `other`. The result has C's precision.
    """
    m = mean.double()
    k = m if other is None else other.double()
    return (C.double() + 2 * m[:, :, None] * k[:, None, :]).to(C.dtype)


def _mean(X: Tensor) -> Tensor:
    """Mean over the positions, rounded to X's precision so that constants give exact zeros."""
    return X.mean(2, dtype=torch.float64).to(X.dtype).double()
