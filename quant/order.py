"""Column orders shared by all rows of a layer.

Sources: Zheng et al., *SAPTQ*, arXiv 2509.05576 (sensitive columns first, while many columns are
still free to compensate); `diag` is act-order of GPTQ's code (arXiv 2210.17323).
"""

from __future__ import annotations

from torch import Tensor

from quant.grid import Grid
from quant.problem import LayerProblem
from quant.sensitivity import sensitivity

ORDERS = ("natural", "diag", "sensitivity", "sensitivity_max", "sensitivity_ascending")


def columns(problem: LayerProblem, grid: Grid, name: str) -> Tensor:
    """The columns sorted by the order `name`, [g, c]; ties keep their natural order.

    natural: as stored. diag: by descending H_jj. sensitivity: by descending sum of S over rows.
    sensitivity_max: by descending maximum over rows. sensitivity_ascending: by ascending sum (an
    ablation).

    Raises:
        ValueError: unknown name.
    """
    if name not in ORDERS:
        raise ValueError(f"order={name!r} must be one of {', '.join(ORDERS)}")
    if name == "natural":
        score = problem.H.diagonal(dim1=1, dim2=2) * 0
    elif name == "diag":
        score = problem.H.diagonal(dim1=1, dim2=2)
    else:
        S = sensitivity(problem, grid)
        score = S.amax(1) if name == "sensitivity_max" else S.sum(1)
    descending = name != "sensitivity_ascending"
    return score.argsort(dim=1, descending=descending, stable=True)
