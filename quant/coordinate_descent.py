"""Cyclic coordinate descent on finished codes: q_j <- Q(q_j + R_j / H_jj), R = (W - Q) H.

Every step minimises the layer loss over one column exactly, so the loss never grows.
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
        grid: step sizes of W's rows.
        Q: where to start; not changed.
        passes: rounds over all columns, fewer when a round changes nothing.
        block_size: columns between two updates of the whole of R. Changes no result.

    Returns:
        Q [g, r, c] on the grid, with loss at most that of the start.
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
    """Better Q [g, r, B], given R = (W - Q) H [g, r, B] and H [g, B, B]."""
    _, r, B = Q.shape
    Q, R = (t.mT.clone(memory_format=torch.contiguous_format) for t in (Q, R))  # [g, B, r]
    for j, steps in zip(range(B), grid.by_column(r, B), strict=False):
        q = snapped(torch.addcdiv(Q[:, j], R[:, j], H[:, j, j, None]), *steps)
        R[:, j + 1 :].addcmul_(H[:, j, j + 1 :, None], (q - Q[:, j])[:, None], value=-1)
        Q[:, j] = q
    return Q.mT
