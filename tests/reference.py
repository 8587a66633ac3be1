"""Slow, obvious mathematics that the fast code is compared with. Imports none of it.

One row is w [c], its Hessian H [c, c], its step sizes and zeros s, z [c]; float64 throughout.
A grid is read only through its attributes scale, zero, bits and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Row = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(w, H, s, z, bits) -> q"""


def random_hessian(g: int, c: int, seed: int, *, correlation: float = 1.0) -> Tensor:
    """A positive definite Hessian [g, c, c] of correlated inputs of unlike sizes."""
    draw = torch.Generator().manual_seed(seed)
    mix = (
        torch.eye(c, dtype=torch.float64)
        + correlation * torch.randn(g, c, c, generator=draw, dtype=torch.float64) / c**0.5
    )
    X = mix @ torch.randn(g, c, 4 * c, generator=draw, dtype=torch.float64)
    X = X * (0.3 + 2 * torch.rand(g, c, 1, generator=draw, dtype=torch.float64))
    H = 2 / (4 * c) * X @ X.mT
    return H + 0.01 * H.diagonal(dim1=1, dim2=2).mean() * torch.eye(c, dtype=torch.float64)


def random_weights(g: int, r: int, c: int, seed: int) -> Tensor:
    """Weights [g, r, c], seeded."""
    draw = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(g, r, c, generator=draw, dtype=torch.float64)


def spread(grid: object, g: int, r: int, c: int) -> tuple[Tensor, Tensor]:
    """A grid's step sizes and zeros of every single weight [g, r, c]."""
    scale, zero = torch.empty(g, r, c).double(), torch.empty(g, r, c).double()
    for a in range(g):
        for i in range(r):
            for j in range(c):
                at = (
                    a if grid.scale.shape[0] > 1 else 0,
                    i if grid.scale.shape[1] > 1 else 0,
                    0 if grid.group_size is None else j // grid.group_size,
                )
                scale[a, i, j], zero[a, i, j] = grid.scale[at], grid.zero[at]
    return scale, zero


def nearest(w: Tensor, s: Tensor, z: Tensor, bits: int) -> Tensor:
    """The value among s (code - z), code = 0 ... 2^bits - 1, that lies nearest: tries them all."""
    values = (torch.arange(2**bits, dtype=torch.float64) - z[..., None]) * s[..., None]
    best = (values - w[..., None]).abs().argmin(-1, keepdim=True)
    return values.gather(-1, best)[..., 0]


def refit(w0: Tensor, H: Tensor, held: dict[int, Tensor]) -> Tensor:
    """argmin (w - w0) H (w - w0)^T with w[j] = held[j], by one dense solve."""
    S, F = list(held), [j for j in range(len(w0)) if j not in held]
    w = w0.clone()
    for j, value in held.items():
        w[j] = value
    if S and F:
        delta = (w - w0)[S]
        w[F] = w0[F] - torch.linalg.solve(H[F][:, F], H[F][:, S] @ delta)
    return w


def loss(w: Tensor, w0: Tensor, H: Tensor) -> float:
    """(w - w0) H (w - w0)^T."""
    return float((w - w0) @ H @ (w - w0))


def choose(
    w0: Tensor, H: Tensor, s: Tensor, z: Tensor, bits: int, held: dict[int, Tensor], free: set[int]
) -> None:
    """Hold all columns of `free`, one by one: every remaining one is tried and refitted.

    The cheapest goes first; but a weight further from its grid than half a step (it is clipped)
    goes before all others, the one with the largest error first.
    """
    free = set(free)
    while free:
        w = refit(w0, H, held)
        q = nearest(w, s, z, bits)
        error = (w - q).abs()
        clipped = [j for j in free if error[j] > 0.5 * (1 + 1e-5) * s[j]]
        if clipped:
            p = max(clipped, key=lambda j: float(error[j]))
        else:
            p = min(free, key=lambda j: loss(refit(w0, H, {**held, j: q[j]}), w0, H))
        held[p] = q[p]
        free.remove(p)


def obq(w0: Tensor, H: Tensor, s: Tensor, z: Tensor, bits: int) -> Tensor:
    """Optimal Brain Quantization of one row."""
    return greedy_in_blocks(w0, H, s, z, bits, range(len(w0)), len(w0))


def greedy_in_blocks(
    w0: Tensor, H: Tensor, s: Tensor, z: Tensor, bits: int, order: Sequence[int], block: int
) -> Tensor:
    """OBQ of the first `block` columns of `order`, then of the next; later ones are refitted."""
    held: dict[int, Tensor] = {}
    for start in range(0, len(order), block):
        choose(w0, H, s, z, bits, held, {int(j) for j in order[start : start + block]})
    return refit(w0, H, held)


def gptq(w0: Tensor, H: Tensor, s: Tensor, z: Tensor, bits: int, order: Sequence[int]) -> Tensor:
    """Fix column after column; downdate H^-1 by Gaussian elimination after each."""
    w, Hinv, q = w0.clone(), torch.linalg.inv(H), torch.empty_like(w0)
    for j in order:
        q[j] = nearest(w[j], s[j], z[j], bits)
        w = w - (w[j] - q[j]) / Hinv[j, j] * Hinv[j]
        Hinv = Hinv - torch.outer(Hinv[:, j], Hinv[j]) / Hinv[j, j]
    return q


def descend(
    w0: Tensor, H: Tensor, s: Tensor, z: Tensor, bits: int, q: Tensor, sweeps: int
) -> Tensor:
    """Each weight in turn to the grid value that makes the loss least: tries every value."""
    q = q.clone()
    for _ in range(sweeps):
        for j in range(len(q)):
            values = (torch.arange(2**bits, dtype=torch.float64) - z[j]) * s[j]
            losses = []
            for value in values:
                q[j] = value
                losses.append(loss(q, w0, H))
            q[j] = values[int(torch.tensor(losses).argmin())]
    return q


def each_row(
    row: Callable[..., Tensor], W: Tensor, H: Tensor, grid: object, *more: object
) -> Tensor:
    """row(w, H, s, z, bits, *more) for every row of W [g, r, c]; Tensors in more are cut up."""
    g, r, c = W.shape
    s, z = spread(grid, g, r, c)
    Q = torch.empty_like(W)
    for a in range(g):
        for i in range(r):
            own = [m[a] if isinstance(m, Tensor) else m for m in more]
            own = [m[i] if isinstance(m, Tensor) and m.dim() == 2 else m for m in own]
            own = [
                m.tolist() if isinstance(m, Tensor) and not m.is_floating_point() else m
                for m in own
            ]
            Q[a, i] = row(W[a, i], H[a], s[a, i], z[a, i], grid.bits, *own)
    return Q


def order(W: Tensor, H: Tensor, grid: object, name: str) -> Tensor:
    """The named column order [g, c] from its formula; sorted() keeps ties in natural order."""
    g, r, c = W.shape
    s, z = spread(grid, g, r, c)
    S = torch.empty(g, r, c).double()
    for a in range(g):
        Hinv = torch.linalg.inv(H[a])
        for i in range(r):
            for j in range(c):
                e = W[a, i, j] - nearest(W[a, i, j], s[a, i, j], z[a, i, j], grid.bits)
                S[a, i, j] = e**2 / Hinv[j, j]
    key = {
        "natural": lambda a, j: 0.0,
        "diag": lambda a, j: -float(H[a, j, j]),
        "sensitivity": lambda a, j: -float(S[a, :, j].sum()),
        "sensitivity_max": lambda a, j: -float(S[a, :, j].max()),
        "sensitivity_ascending": lambda a, j: float(S[a, :, j].sum()),
    }[name]
    return torch.tensor([sorted(range(c), key=lambda j, a=a: key(a, j)) for a in range(g)])
