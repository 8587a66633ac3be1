"""Row-parallel quantization: one order of column blocks and one inverse Hessian for all rows.

Source: Zheng et al., *Sensitivity-Aware Post-Training Quantization* (SAPTQ), arXiv 2509.05576:
sensitive columns first, rows in parallel. Two steps beyond it: inside a block every row follows its
own OBQ order (which the rest of the layer cannot tell, see quant/elimination.py), and the finished
codes are polished by coordinate descent.
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

    O(g r c block) work beyond the shared O(g c^3 + g r c^2), instead of OBQ's O(g r c^3).

    Args:
        problem: W [g, r, c] and positive definite H [g, c, c]. Neither is changed.
        grid: step sizes of W's rows.
        order: order of the columns, one of quant.order.ORDERS.
        block_size: columns in a block; with `refine`, one block over all columns is OBQ itself.
        refine: every row chooses its own OBQ order inside a block.
        cd_passes: rounds of coordinate descent over the finished codes; 0 is none.
        max_bytes: bound on the refinement's memory. Changes no result.

    Returns:
        Q [g, r, c] on the grid.
    """
    solve = partial(_own_order, max_bytes=max_bytes) if refine else in_order
    Q = eliminate(problem, grid, columns(problem, grid, order), block_size, solve)
    return descend(problem, grid, Q, cd_passes)


def _own_order(W: Tensor, U: Tensor, grid: Grid, *, max_bytes: int) -> Tensor:
    return greedy(W, U.mT @ U, grid, max_bytes=max_bytes)
