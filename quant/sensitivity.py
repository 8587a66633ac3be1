"""Sensitivity of single weights to quantization, and how it clusters by column.

    S_ij = (w_ij - Q(w_ij))^2 / [H^-1]_jj

Sources: Frantar et al., arXiv 2208.11580 (the estimate); Zheng et al., *SAPTQ*, arXiv 2509.05576
(clustering by column is why all rows can share one order).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.grid import Grid
from quant.problem import LayerProblem, inverse_root


def sensitivity(problem: LayerProblem, grid: Grid) -> Tensor:
    """S [g, r, c]: the minimal loss of quantizing weight ij alone. H must be positive definite."""
    d = inverse_root(problem.H).square().sum(1)  # the diagonal of U^T U
    return (problem.W - grid.round(problem.W)).square() / d[:, None].to(problem.W.dtype)


def clustering(S: Tensor) -> float:
    """How strongly S [g, r, c] clusters by column, from 0 (not at all) to 1 (uniform columns).

    The share of the variance of log S that lies between the columns of all groups, corrected for
    chance: adjusted R^2 = 1 - (SS_within / (N - k)) / (SS_total / (N - 1)) for N weights in k
    columns, clipped at 0. It is 0 if a column has a single row.
    """
    g, r, c = S.shape
    if r < 2:
        return 0.0
    positive = S[S > 0].double()
    if positive.numel() == 0:
        return 0.0
    floor = positive.mean() * 1e-6  # weights that happen to lie on the grid have log S = -inf
    x = S.double().clamp(min=floor).log()
    within = (x - x.mean(1, keepdim=True)).square().sum() / (g * r * c - g * c)
    total = (x - x.mean()).square().sum() / (g * r * c - 1)
    return float((1 - within / total).clamp(0, 1)) if total > 0 else 0.0


def heatmap(S: Tensor, rows: int, columns: int) -> Tensor:
    """S [g, r, c] averaged down to at most [rows, columns], with the groups stacked."""
    picture = S.flatten(0, 1)[None, None]
    size = (min(rows, picture.shape[2]), min(columns, picture.shape[3]))
    return torch.nn.functional.adaptive_avg_pool2d(picture, size)[0, 0]
