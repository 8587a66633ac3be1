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


def moments(x: Tensor, dim: int) -> Moments:
    """Of x, whose channels lie along `dim`."""
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    var, mean = torch.var_mean(x.detach(), others, correction=0)
    return Moments(mean.double(), var.double(), x.numel() // x.shape[dim])
