"""Optimal Brain Quantization: the most accurate layer-wise method, and the baseline.

Source: Frantar, Singh, Alistarh, *Optimal Brain Compression*, arXiv 2208.11580 (NeurIPS 2022), with
the rule of its public code for clipped weights. H^-1 holds the free columns only, which changes no
result and makes this about three times faster than updating all of it, as that code does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.grid import Grid, snapped
from quant.problem import LayerProblem, inverse_root

CLIPPED = 0.5 * (1 + 1e-5)  # in steps: a weight inside its grid's range is nearer than this
SHRINK = 0.75  # H^-1 moves to less memory once so little of it is free


def quantize(problem: LayerProblem, grid: Grid, *, max_bytes: int = 2**26) -> Tensor:
    """Fix one weight per row and step, cheapest first; the free weights make up for it.

    O(g r c^3) work. Every row holds its own H^-1, so rows go through in chunks.

    Args:
        problem: W [g, r, c] and positive definite H [g, c, c]. Neither is changed.
        grid: step sizes of W's rows.
        max_bytes: bound on the memory of a chunk; one row at least is taken. Changes no result.

    Returns:
        Q [g, r, c] on the grid.
    """
    U = inverse_root(problem.H, problem.W.dtype)
    return greedy(problem.W, U.mT @ U, grid, max_bytes=max_bytes)


def greedy(W: Tensor, Hinv: Tensor, grid: Grid, *, max_bytes: int) -> Tensor:
    """OBQ of W [g, r, c] given H^-1 [g, c, c], in chunks of rows."""
    g, r, c = W.shape
    scale, zero = (t.expand(g, r, -1).reshape(g * r, -1) for t in grid.spread(c))
    group = torch.arange(g, device=W.device).repeat_interleave(r)
    chunk = max(1, max_bytes // (2 * c * c * W.element_size()))  # H^-1 and its smaller copy
    Q = torch.empty_like(W).reshape(g * r, c)
    for rows in torch.split(torch.arange(g * r, device=W.device), chunk):
        Q[rows] = _solve_rows(
            W.reshape(g * r, c)[rows], Hinv[group[rows]], scale[rows], zero[rows], grid.top
        )
    return Q.reshape(g, r, c)


def _solve_rows(W: Tensor, Hinv: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """n rows at once: W [n, c], Hinv [n, c, c] (overwritten), scale, zero [n, 1 or c]."""
    n, c = W.shape
    rows = torch.arange(n, device=W.device)
    column = torch.arange(c, device=W.device).repeat(n, 1)  # where the free columns came from
    W, d = W.clone(), Hinv.diagonal(dim1=1, dim2=2).clone()  # d is kept up to date beside H^-1
    free = [W, d, column]  # [n, m], m columns are free
    low, high, half = -zero, top - zero, CLIPPED * scale
    if scale.shape[1] > 1:
        scale, low, high, half = (t.clone() for t in (scale, low, high, half))
        free += [scale, low, high, half]
    Q = torch.empty_like(W)
    for last in range(c - 1, -1, -1):
        q = snapped(W, scale, low, high)
        error = W - q
        size = error.abs()
        # a clipped weight goes first, the largest error first; then the least error^2 / d
        cost = torch.where(size > half, -size, error.square_().div_(d))
        p = cost.argmin(1, keepdim=True)
        fixed = q.gather(1, p)
        Q.scatter_(1, column.gather(1, p), fixed)
        h = Hinv[rows, p[:, 0]]  # [n, m]
        h_d = h / d.gather(1, p)
        W.sub_(h_d * (W.gather(1, p) - fixed))  # the free weights answer
        d.sub_(h_d * h)
        # the last free column takes the place of p, so that the free ones stay together
        for t in (*free, h, h_d):
            t.scatter_(1, p, t[:, last:].clone())
        Hinv[rows, p[:, 0]] = Hinv[:, last].clone()
        Hinv.mT[rows, p[:, 0]] = Hinv[:, :, last].clone()
        W, d, column, *grid = free = [t[:, :last] for t in free]
        scale, low, high, half = grid or (scale, low, high, half)
        Hinv = Hinv[:, :last, :last]
        if last <= SHRINK * Hinv.stride(1):
            Hinv = Hinv.contiguous()
        Hinv.addcmul_(h_d[:, :last, None], h[:, None, :last], value=-1)  # drop p (Lemma 1)
    return Q
