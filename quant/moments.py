"""Mean and variance of channels, of parts of the data that add up.

Source of the sum: Chan, Golub, LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances*, Stanford STAN-CS-79-773, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and biased variance of every channel over n positions, float64; parts add up."""

    mean: Tensor
    var: Tensor
    n: int

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        a, b = self.n / n, other.n / n
        apart = other.mean - self.mean
        var = a * self.var + b * other.var + a * b * apart.square()
        return Moments(self.mean + b * apart, var, n)

    def beside(self, x: Tensor) -> Moments:
        """The same on the device of x."""
        return Moments(self.mean.to(x.device), self.var.to(x.device), self.n)


def moments(x: Tensor, dim: int) -> Moments:
    """Of x, whose channels lie along `dim`: 1, or the last one.

    Deviations are from the mean of their own slice [b, c, :] or of their channel, so nothing
    cancels; much faster than `torch.var_mean` over several dimensions.
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    n = x.numel() // x.shape[dim]
    if dim % x.dim() == x.dim() - 1:
        mean, square = _spread(x.flatten(0, -2), 0)
        return Moments(mean, square / n, n)
    means, squares = _spread(x.flatten(2), 2)  # of every slice
    mean = means.mean(0)
    between = (means - mean).square().mean(0)
    return Moments(mean, squares.sum(0) / n + between, n)


def _spread(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean along `dim`, and the sum of the squares of what is left; in float64."""
    mean = x.mean(dim, keepdim=True)
    rest = torch.linalg.vector_norm(x - mean, dim=dim).double()
    return mean.squeeze(dim).double(), rest.square()
