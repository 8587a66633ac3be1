"""Local search for a good configuration under a budget: greedy lowering, then pairwise changes.

The integer programme starts from its result: with tens of layers this is near the optimum within a
second, when a solver alone may have nothing useful after twenty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.mixed.space import Config, Space

ROUNDING = 1e-12  # relative rounding error of summed costs


def locally_optimal(space: Space, budget: float) -> Config:
    """A configuration that no change of one or two layers within the budget improves.

    Raises:
        ValueError: the budget is below the least possible cost.
    """
    if budget < (least := float(space.costs.min(1).values.sum())):
        raise ValueError(f"a budget of {budget:.6g} is below the least possible cost, {least:.6g}")
    config = torch.tensor(space.widest)
    while float(_at(space.costs, config).sum()) > budget:
        config = _cheaper(space, config)
    return tuple(_exchanged(space, budget, config).tolist())


def _at(table: Tensor, config: Tensor) -> Tensor:
    """Each layer's entry of a table [N, B] at its width: [N]."""
    return table.gather(1, config[:, None])[:, 0]


def _loss_changes(space: Space, config: Tensor) -> Tensor:
    """Change of the predicted loss if one layer gets another width: [N, B], 0 at its own."""
    if space.couplings is None:
        return space.sensitivity - _at(space.sensitivity, config)[:, None]
    layers = torch.arange(len(config))
    to_others = space.couplings[:, :, layers, config]  # [N, B, N]
    with_itself = space.couplings[layers, :, layers, config]  # [N, B]: i at b with i as in config
    own = space.couplings[layers, :, layers].diagonal(dim1=1, dim2=2)  # [N, B]
    linear = to_others.sum(2) - with_itself
    whole = own / 2 + linear
    return whole - _at(whole, config)[:, None]


def _cheaper(space: Space, config: Tensor) -> Tensor:
    """The single change with the least predicted loss per saved cost."""
    saved = _at(space.costs, config)[:, None] - space.costs
    more = _loss_changes(space, config)
    price = torch.where(more > 0, more / saved, more * saved)  # improvements come first
    price = price.masked_fill(saved <= 0, torch.inf)
    layer, width = divmod(int(price.argmin()), space.costs.shape[1])
    config = config.clone()
    config[layer] = width
    return config


def _exchanged(space: Space, budget: float, config: Tensor) -> Tensor:
    """Make the best change of one or two layers at once, repeatedly, until none improves."""
    N, B = space.costs.shape
    m = N * B
    A = None if space.couplings is None else space.couplings.reshape(m, m)
    layer = torch.arange(N).repeat_interleave(B)
    while True:
        one = _loss_changes(space, config).flatten()
        extra = (space.costs - _at(space.costs, config)[:, None]).flatten()
        room = budget * (1 + ROUNDING) - float(_at(space.costs, config).sum())
        change = one[:, None] + one
        if A is not None:
            current = layer * B + config[layer]  # current entry of each entry's layer
            rows = A - A[current]
            change = change + rows - rows[:, current]
        change = change.masked_fill(layer[:, None] == layer, torch.inf).diagonal_scatter(one)
        cost = (extra[:, None] + extra).diagonal_scatter(extra)
        change = change.masked_fill(cost > room, torch.inf)
        best = config.clone()
        for entry in divmod(int(change.argmin()), m):
            best[layer[entry]] = entry % B
        # compare the predictions themselves: rounding could fake an improvement in every round
        before, after = (space.predicted(tuple(c.tolist())) for c in (config, best))
        if not after < before:
            return config
        config = best
