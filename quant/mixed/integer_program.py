"""The configuration with the least predicted loss under a budget, by integer programming.

    minimise 1/2 x^T A x    subject to    one width per layer,  costs . x <= budget,  x in {0, 1}

A is a Gram matrix, so the relaxed programme is convex. SCIP (scipopt.org) solves it with A factored
into its significant eigenvectors, one square each, starting from the result of local_search.py.
With tens of layers SCIP may only prove that start optimal, or run out of time.
"""

from __future__ import annotations

import torch
from pyscipopt import Model, quicksum
from torch import Tensor

from quant.mixed.local_search import locally_optimal
from quant.mixed.space import Config, Space

RANK_TOLERANCE = 1e-6  # eigenvalues below this fraction of the largest are dropped
GAP = 1e-3  # relative gap to the optimum at which SCIP stops


def cheapest_loss(space: Space, budget: float, seconds: float) -> Config:
    """The best configuration found within a time limit; optimal (up to `GAP`) if SCIP finishes.

    Args:
        space: costs, and couplings or sensitivities.
        budget: upper limit of the total cost.
        seconds: time limit of SCIP.

    Raises:
        ValueError: the budget is below the least possible cost.
    """
    N, B = space.costs.shape
    start = locally_optimal(space, budget)
    unit = float(space.costs.max(1).values.sum())
    model = Model()
    model.hideOutput()
    x = [[model.addVar(vtype="B") for _ in range(B)] for _ in range(N)]
    for row in x:
        model.addCons(quicksum(row) == 1)
    costs = (space.costs.double() / unit).tolist()
    spent = quicksum(costs[i][b] * x[i][b] for i in range(N) for b in range(B))
    model.addCons(spent <= budget / unit)
    flat = [variable for row in x for variable in row]
    initial = model.createSol()
    for i, at in enumerate(start):
        model.setSolVal(initial, x[i][at], 1.0)
    if space.couplings is None:
        losses = (space.sensitivity.double() / _largest(space.sensitivity)).flatten().tolist()
        model.setObjective(quicksum(w * v for w, v in zip(losses, flat, strict=True)))
    else:
        V = factor(space.couplings.double().reshape(N * B, N * B))
        total = model.addVar(lb=0)
        squares = [model.addVar(lb=None) for _ in range(len(V))]
        for y, weights in zip(squares, V.tolist(), strict=True):
            model.addCons(y == quicksum(w * v for w, v in zip(weights, flat, strict=True) if w))
        model.addCons(total >= quicksum(y * y for y in squares))
        model.setObjective(total)
        roots = V[:, [i * B + at for i, at in enumerate(start)]].sum(1)
        for y, value in zip(squares, roots.tolist(), strict=True):
            model.setSolVal(initial, y, value)
        model.setSolVal(initial, total, float(roots.square().sum()) * (1 + 1e-9))
    model.addSol(initial)
    model.setParam("limits/gap", GAP)
    model.setParam("limits/time", seconds)
    model.setParam("parallel/maxnthreads", 1)
    model.optimize()
    if model.getNSols() == 0:
        return start
    config = tuple(max(range(B), key=lambda b: model.getVal(row[b])) for row in x)
    return min((config, start), key=space.predicted)


def factor(A: Tensor) -> Tensor:
    """V [k, m] with V^T V = A / max |A|, for symmetric A [m, m]; drops its negative part."""
    values, vectors = torch.linalg.eigh(A)
    kept = values > RANK_TOLERANCE * values.max().clamp(min=1e-300)
    scaled: Tensor = vectors[:, kept] * (values[kept] / _largest(A)).sqrt()
    return scaled.T


def _largest(values: Tensor) -> float:
    return max(float(values.abs().max()), 1e-300)
