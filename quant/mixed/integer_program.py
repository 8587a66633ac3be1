"""The configuration of least predicted loss under a budget, as an integer programme.

    minimise 1/2 x^T A x    subject to    one width a layer,  costs . x <= budget,  x in {0, 1}

A is a Gram matrix, so the programme is convex without its integrality. Solved by SCIP
(scipopt.org) with A by its eigenvectors, one square for each that counts, from the start that
exchange.py gives: with tens of layers SCIP may end by proving it, or by its time alone.
"""

from __future__ import annotations

import torch
from pyscipopt import Model, quicksum
from torch import Tensor

from quant.mixed.local_search import good
from quant.mixed.space import Config, Space

RANK_TOLERANCE = 1e-6  # eigenvalues below this part of the largest are left out
GAP = 1e-3  # a solution proved to be so near the optimum is taken


def cheapest_loss(space: Space, budget: float, seconds: float) -> Config:
    """The best configuration found in so many seconds; the optimum if SCIP proves it by then.

    Args:
        space: costs, and couplings or sensitivities.
        budget: that the costs may come to.
        seconds: at most.

    Raises:
        ValueError: the budget is below that of the narrowest configuration.
    """
    N, B = space.costs.shape
    start = good(space, budget)
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
    given = model.createSol()
    for i, at in enumerate(start):
        model.setSolVal(given, x[i][at], 1.0)
    if space.couplings is None:
        worth = (space.sensitivity.double() / _largest(space.sensitivity)).flatten().tolist()
        model.setObjective(quicksum(w * v for w, v in zip(worth, flat, strict=True)))
    else:
        V = factor(space.couplings.double().reshape(N * B, N * B))
        total = model.addVar(lb=0)
        squares = [model.addVar(lb=None) for _ in range(len(V))]
        for y, weights in zip(squares, V.tolist(), strict=True):
            model.addCons(y == quicksum(w * v for w, v in zip(weights, flat, strict=True) if w))
        model.addCons(total >= quicksum(y * y for y in squares))
        model.setObjective(total)
        found = V[:, [i * B + at for i, at in enumerate(start)]].sum(1)
        for y, value in zip(squares, found.tolist(), strict=True):
            model.setSolVal(given, y, value)
        model.setSolVal(given, total, float(found.square().sum()) * (1 + 1e-9))
    model.addSol(given)
    model.setParam("limits/gap", GAP)
    model.setParam("limits/time", seconds)
    model.setParam("parallel/maxnthreads", 1)
    model.optimize()
    if model.getNSols() == 0:
        return start
    config = tuple(max(range(B), key=lambda b: model.getVal(row[b])) for row in x)
    return min((config, start), key=space.predicted)


def factor(A: Tensor) -> Tensor:
    """V [k, m] with V^T V = A / |A|, A [m, m] symmetric; what is negative of it is left out."""
    values, vectors = torch.linalg.eigh(A)
    kept = values > RANK_TOLERANCE * values.max().clamp(min=1e-300)
    scaled: Tensor = vectors[:, kept] * (values[kept] / _largest(A)).sqrt()
    return scaled.T


def _largest(values: Tensor) -> float:
    return max(float(values.abs().max()), 1e-300)
