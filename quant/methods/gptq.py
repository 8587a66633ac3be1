"""GPTQ: one fixed column order for all rows, no refinement.

Source: Frantar et al., arXiv 2210.17323; `order="diag"` is its code's act-order.
"""

from __future__ import annotations

from torch import Tensor

from quant.elimination import eliminate, in_order
from quant.grid import Grid
from quant.order import columns
from quant.problem import LayerProblem


def quantize(problem: LayerProblem, grid: Grid, *, order: str, block_size: int = 128) -> Tensor:
    """Quantize column by column; the remaining columns compensate for each error.

    Args:
        problem: W [g, r, c] and positive definite H [g, c, c]. Neither is changed.
        grid: step sizes for W.
        order: "natural" or "diag".
        block_size: columns between two updates of all remaining ones. Does not change the result.

    Returns:
        Q [g, r, c] on the grid.

    Raises:
        ValueError: another order, block_size < 1, or H is not positive definite.
    """
    if order not in ("natural", "diag"):
        raise ValueError(f"order={order!r} must be natural or diag; row_parallel has more orders")
    return eliminate(problem, grid, columns(problem, grid, order), block_size, in_order)
