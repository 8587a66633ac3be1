"""Row-parallel quantization: one order of column blocks and one inverse Hessian for all rows.

Source: Zheng et al., *Sensitivity-Aware Post-Training Quantization* (SAPTQ), arXiv 2509.05576:
sensitive columns first, rows in parallel. Two extensions: inside a block every row follows its own
OBQ order (quant/elimination.py allows any order there), and coordinate descent polishes the final
codes.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from quant.coordinate_descent import descend
from quant.elimination import eliminate, in_order
from quant.grid import Grid
from quant.methods.obq import greedy
from quant.order import columns
from quant.problem import LayerProblem


def quantize(
    problem: LayerProblem,
    grid: Grid,
    *,
    order: str,
    block_size: int,
    refine: bool,
    cd_passes: int,
    max_bytes: int = 2**25,
) -> Tensor:
    """Quantize blocks of columns, all rows at once.

    O(g r c block_size) work in addition to the shared O(g c^3 + g r c^2); OBQ takes O(g r c^3).

    Args:
        problem: W [g, r, c] and positive definite H [g, c, c]. Neither is changed.
        grid: step sizes for W.
        order: column order, one of quant.order.ORDERS.
        block_size: columns per block; one block with `refine` and cd_passes=0 is exactly OBQ.
        refine: let each row follow its own OBQ order inside a block.
        cd_passes: maximum passes of coordinate descent over the final codes; 0 for none.
        max_bytes: memory limit of the refinement. Does not change the result.

    Returns:
        Q [g, r, c] on the grid.

    Raises:
        ValueError: an argument outside the values above, or H is not positive definite.
    """
    solve = partial(_own_order, max_bytes=max_bytes) if refine else in_order
    Q = eliminate(problem, grid, columns(problem, grid, order), block_size, solve)
    return descend(problem, grid, Q, cd_passes)


def _own_order(W: Tensor, U: Tensor, grid: Grid, *, max_bytes: int) -> Tensor:
    return greedy(W, U.mT @ U, grid, max_bytes=max_bytes)
