"""Round to nearest (RTN): each weight separately. The simplest baseline."""

from __future__ import annotations

from torch import Tensor

from quant.grid import Grid
from quant.problem import LayerProblem


def quantize(problem: LayerProblem, grid: Grid) -> Tensor:
    """Round each weight to the nearest grid value.

    Args:
        problem: W [g, r, c]; H is ignored.
        grid: step sizes for W.

    Returns:
        Q [g, r, c] on the grid.
    """
    return grid.round(problem.W)
