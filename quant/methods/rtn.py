"""Round to nearest: every weight on its own. The baseline of all baselines."""

from __future__ import annotations

from torch import Tensor

from quant.grid import Grid
from quant.problem import LayerProblem


def quantize(problem: LayerProblem, grid: Grid) -> Tensor:
    """The nearest grid value of every weight.

    Args:
        problem: W [g, r, c]; H is not looked at.
        grid: step sizes of W's rows.

    Returns:
        Q [g, r, c] on the grid.
    """
    return grid.round(problem.W)
