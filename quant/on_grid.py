"""Whether the result of a layer-wise method lies on its grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quant.grid import Grid

TOLERANCE = 1e-3  # in steps; beside the rounding of the values themselves


def check_on_grid(Q: Any, grid: Grid, shape: Sequence[int], origin: str) -> None:
    """Check the result Q of a method: its shape, and that its values are on the grid.

    Args:
        Q: what the method returned.
        grid: the grid that it was given.
        shape: of the weights, [g, r, c].
        origin: what to call the layer in an error: "layer conv1".

    Raises:
        ValueError: Q is no tensor of this shape, or holds NaN or values that are not on the grid.
    """
    if not isinstance(Q, Tensor) or tuple(Q.shape) != tuple(shape):
        found = list(Q.shape) if isinstance(Q, Tensor) else type(Q).__name__
        raise ValueError(
            f"{origin}: the method returned {found} instead of a tensor Q {list(shape)}: the "
            "quantized weights, in the shape of W"
        )
    if not bool(Q.isfinite().all()):
        count = int((~Q.isfinite()).sum())
        raise ValueError(f"{origin}: the method returned {count} values that are NaN or infinite")
    scale, _ = grid.spread(Q.shape[-1])
    nearest = grid.round(Q)
    eps = max(torch.finfo(t.dtype).eps for t in (Q, scale))
    rounding = 4 * eps * Q.abs()
    off = ~((Q - nearest).abs() <= TOLERANCE * scale + rounding)
    if bool(off.any()):
        at = tuple(off.nonzero()[0].tolist())
        raise ValueError(
            f"{origin}: {int(off.sum())} of {Q.numel()} values that the method returned are not on "
            f"its grid of {grid.top + 1} values, the first one at {list(at)}: {float(Q[at]):.6g}, "
            f"where {float(nearest[at]):.6g} is the nearest. A method returns values of the grid, "
            "such as grid.round(W)"
        )
