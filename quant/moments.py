"""Channel means and variances of parts of the data, which can be combined.

Source: Chan, Golub, LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances*, Stanford STAN-CS-79-773, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and biased variance of every channel over n positions, float64; `+` combines parts."""

    mean: Tensor
    var: Tensor
    n: int

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        a, b = self.n / n, other.n / n
        difference = other.mean - self.mean
        var = a * self.var + b * other.var + a * b * difference.square()
        return Moments(self.mean + b * difference, var, n)

    def to_device_of(self, x: Tensor) -> Moments:
        """The same moments on the device of x."""
        return Moments(self.mean.to(x.device), self.var.to(x.device), self.n)


def moments(x: Tensor, dim: int) -> Moments:
    """Moments of x, whose channel dimension `dim` is 1 or the last one.

    Deviations are taken from the mean of each slice [b, c, :] or channel, which avoids cancellation
    and is much faster than `torch.var_mean` over several dimensions.
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    n = x.numel() // x.shape[dim]
    if dim % x.dim() == x.dim() - 1:
        mean, square = _mean_and_squares(x.flatten(0, -2), 0)
        return Moments(mean, square / n, n)
    means, squares = _mean_and_squares(x.flatten(2), 2)  # per slice
    mean = means.mean(0)
    between = (means - mean).square().mean(0)
    return Moments(mean, squares.sum(0) / n + between, n)


def _mean_and_squares(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean along `dim`, and the sum of squared deviations from it; both in float64."""
    mean = x.mean(dim, keepdim=True)
    deviation = torch.linalg.vector_norm(x - mean, dim=dim).double()
    return mean.squeeze(dim).double(), deviation.square()
