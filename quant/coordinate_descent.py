"""Cyclic coordinate descent on a solution's codes: q_j <- Q(q_j + R_j / H_jj), R = (W - Q) H.

Each step minimises the layer loss exactly over one column, so the loss never increases.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.grid import Grid, snapped
from quant.problem import LayerProblem


def descend(
    problem: LayerProblem, grid: Grid, Q: Tensor, passes: int, block_size: int = 128
) -> Tensor:
    """Improve Q [g, r, c] on the grid, one column of all rows at a time.

    Args:
        problem: W [g, r, c] and H [g, c, c] with a positive diagonal.
        grid: step sizes for W.
        Q: starting point; not changed.
        passes: maximum number of passes over all columns; stops early once nothing changes.
        block_size: columns between two updates of the full R. Does not change the result.

    Returns:
        Q [g, r, c] on the grid; its loss is at most that of the starting point.

    Raises:
        ValueError: negative passes.
    """
    if passes < 0:
        raise ValueError(f"passes={passes} must be 0 or more")
    W, H = problem.W, problem.H.to(Q.dtype)
    c = W.shape[2]
    Q = Q.clone()
    R = (W - Q) @ H
    for _ in range(passes):
        before = Q.clone()
        for start in range(0, c, block_size):
            b = slice(start, min(start + block_size, c))
            part = torch.arange(b.start, b.stop, device=W.device).expand(len(W), -1)
            new = _pass_over_block(Q[..., b], R[..., b], H[:, b, b], grid.columns(part))
            R -= (new - Q[..., b]) @ H[:, b]
            Q[..., b] = new
        if torch.equal(Q, before):
            break
    return Q


def _pass_over_block(Q: Tensor, R: Tensor, H: Tensor, grid: Grid) -> Tensor:
    """Improved Q [g, r, B], given R = (W - Q) H [g, r, B] and H [g, B, B]."""
    _, r, B = Q.shape
    Q, R = (t.mT.clone(memory_format=torch.contiguous_format) for t in (Q, R))  # [g, B, r]
    for j, steps in zip(range(B), grid.by_column(r, B), strict=False):
        q = snapped(torch.addcdiv(Q[:, j], R[:, j], H[:, j, j, None]), *steps)
        R[:, j + 1 :].addcmul_(H[:, j, j + 1 :, None], (q - Q[:, j])[:, None], value=-1)
        Q[:, j] = q
    return Q.mT
