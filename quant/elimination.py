"""Block-wise quantization of columns with one shared inverse Hessian.

For H^-1 = U^T U with U upper triangular, row j of U already holds what sequential downdates of H^-1
would yield, so none are needed. With the columns sorted into blocks b and W_b the weights of a
block just before it is quantized,

    E = (W_b - Q_b) U_bb^-1,    W_rest -= E U_b,rest

holds for any order *inside* the block, so any method can solve it.

Sources: Frantar et al., *GPTQ*, arXiv 2210.17323 (the Cholesky form); Zheng et al., *SAPTQ*,
arXiv 2509.05576 (one order and one inverse Hessian for all rows).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quant.grid import Grid, snapped
from quant.problem import LayerProblem, inverse_root

SolveBlock = Callable[[Tensor, Tensor, Grid], Tensor]
"""(W_b [g, r, B], U_bb [g, B, B], grid of the block's columns) -> Q_b [g, r, B]."""


def eliminate(
    problem: LayerProblem, grid: Grid, order: Tensor, block_size: int, solve: SolveBlock
) -> Tensor:
    """Quantize column blocks in `order`; the remaining columns compensate for each block's error.

    Args:
        problem: W [g, r, c] and positive definite H [g, c, c]. Neither is changed.
        grid: step sizes for W, columns in their natural order.
        order: a permutation of the columns for each group [g, c].
        block_size: columns per block, at least 1.
        solve: quantizes one block of columns.

    Returns:
        Q [g, r, c] on the grid, columns in their natural order.

    Raises:
        ValueError: block_size < 1, or H is not positive definite.
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1 column")
    c = problem.W.shape[2]
    ordered, ordered_grid = problem.permuted(order), grid.columns(order)
    U = inverse_root(ordered.H, ordered.W.dtype)
    W = ordered.W.clone()
    Q = torch.empty_like(W)
    for start in range(0, c, block_size):
        b, rest = slice(start, start + block_size), slice(start + block_size, c)
        part = torch.arange(start, min(start + block_size, c), device=W.device).expand(len(W), -1)
        Q[..., b] = solve(W[..., b], U[:, b, b], ordered_grid.columns(part))
        E = torch.linalg.solve_triangular(U[:, b, b], W[..., b] - Q[..., b], upper=True, left=False)
        W[..., rest] -= E @ U[:, b, rest]
    return torch.empty_like(Q).scatter_(2, order[:, None].expand_as(Q), Q)


def in_order(W: Tensor, U: Tensor, grid: Grid) -> Tensor:
    """Quantize the columns of a block from left to right, all rows at once (GPTQ)."""
    _, r, B = W.shape
    W = W.mT.clone(memory_format=torch.contiguous_format)  # [g, B, r]: each column is contiguous
    Q = torch.empty_like(W)
    for j, steps in zip(range(B), grid.by_column(r, B), strict=False):
        q = snapped(W[:, j], *steps)
        e = (W[:, j] - q) / U[:, j, j, None]
        W[:, j + 1 :].addcmul_(U[:, j, j + 1 :, None], e[:, None], value=-1)
        Q[:, j] = q
    return Q.mT
