"""Cyclic coordinate descent on finished codes: q_j <- Q(q_j + R_j / H_jj), R = (W - Q) H.

Every step minimises the layer loss over one column exactly, so the loss never grows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.grid import Grid, nearest
from quant.problem import LayerProblem


def descend(problem: LayerProblem, grid: Grid, Q: Tensor, sweeps: int, block: int = 128) -> Tensor:
    """Improve Q [g, r, c] on the grid, one column of all rows at a time.

    Args:
        problem: W [g, r, c] and H [g, c, c] with a positive diagonal.
        grid: step sizes of W's rows.
        Q: where to start; not changed.
        sweeps: rounds over all columns, fewer when a round changes nothing.
        block: columns between two updates of the whole of R. Changes no result.

    Returns:
        Q [g, r, c] on the grid, with loss at most that of the start.
    """
    if sweeps < 0:
        raise ValueError(f"sweeps={sweeps} must be 0 or more")
    W, H = problem.W, problem.H.to(Q.dtype)
    c = W.shape[2]
    Q = Q.clone()
    for _ in range(sweeps):
        R = (W - Q) @ H  # anew every sweep: rounding errors do not add up
        before = Q.clone()
        for start in range(0, c, block):
            b = slice(start, min(start + block, c))
            part = torch.arange(b.start, b.stop, device=W.device).expand(len(W), -1)
            step = _sweep_block(Q[..., b], R[..., b].clone(), H[:, b, b], grid.columns(part))
            Q[..., b] += step
            R -= step @ H[:, b]
        Q = grid.round(Q)  # from "almost on the grid" to exactly on it
        if torch.equal(Q, before):
            break
    return Q


def _sweep_block(Q: Tensor, R: Tensor, H: Tensor, grid: Grid) -> Tensor:
    """The change of Q [g, r, B]; R = (W - Q) H [g, r, B] is overwritten, H [g, B, B]."""
    new = Q.clone()
    scale, zero = (t.expand(*Q.shape[:2], -1) for t in grid.spread(Q.shape[2]))
    for j in range(Q.shape[2]):
        k = j if grid.width else 0
        s, z = scale[..., k], zero[..., k]
        target = Q[..., j] + R[..., j] / H[:, j, j, None]
        new[..., j] = nearest(target, s, z, grid.top)
        R -= (new[..., j] - Q[..., j])[..., None] * H[:, None, j]
    return new - Q
