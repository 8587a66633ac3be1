"""A good configuration under a budget, fast: lower greedily, then change one or two layers a step.

What the integer programme starts from: on tens of layers it is near the optimum within a second,
where a solver alone may have nothing of use after twenty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.mixed.space import Config, Space

ROUNDING = 1e-12  # part of the budget that sums of costs may be off by


def good(space: Space, budget: float) -> Config:
    """A configuration that no change of one or two layers within the budget improves.

    Raises:
        ValueError: the budget is below that of the cheapest widths.
    """
    if budget < (least := float(space.costs.min(1).values.sum())):
        raise ValueError(f"a budget of {budget:.6g} is below the least cost there is, {least:.6g}")
    config = torch.tensor(space.widest)
    while float(_at(space.costs, config).sum()) > budget:
        config = _cheaper(space, config)
    return tuple(_exchanged(space, budget, config).tolist())


def _at(table: Tensor, config: Tensor) -> Tensor:
    """Every layer's entry of a table [N, B] at its width: [N]."""
    return table.gather(1, config[:, None])[:, 0]


def _changes(space: Space, config: Tensor) -> Tensor:
    """How the prediction moves if one layer gets another width: [N, B], 0 at its own."""
    if space.couplings is None:
        return space.sensitivity - _at(space.sensitivity, config)[:, None]
    layers = torch.arange(len(config))
    to_others = space.couplings[:, :, layers, config]  # [N, B, N]
    with_itself = space.couplings[layers, :, layers, config]  # [N, B]: i at b with i as it is
    own = space.couplings[layers, :, layers].diagonal(dim1=1, dim2=2)  # [N, B]
    linear = to_others.sum(2) - with_itself
    whole = own / 2 + linear
    return whole - _at(whole, config)[:, None]


def _cheaper(space: Space, config: Tensor) -> Tensor:
    """The single change that saves most for what it is predicted to cost."""
    saved = _at(space.costs, config)[:, None] - space.costs
    more = _changes(space, config)
    price = torch.where(more > 0, more / saved, more * saved)  # what improves comes first
    price = price.masked_fill(saved <= 0, torch.inf)
    layer, width = divmod(int(price.argmin()), space.costs.shape[1])
    config = config.clone()
    config[layer] = width
    return config


def _exchanged(space: Space, budget: float, config: Tensor) -> Tensor:
    """The best change of one layer or of two at once, again and again while there is one."""
    N, B = space.costs.shape
    m = N * B
    A = None if space.couplings is None else space.couplings.reshape(m, m)
    layer = torch.arange(N).repeat_interleave(B)
    while True:
        one = _changes(space, config).flatten()
        dearer = (space.costs - _at(space.costs, config)[:, None]).flatten()
        room = budget * (1 + ROUNDING) - float(_at(space.costs, config).sum())
        gain = one[:, None] + one
        if A is not None:
            now = layer * B + config[layer]  # where each entry's layer is at present
            rows = A - A[now]
            gain = gain + rows - rows[:, now]
        gain = gain.masked_fill(layer[:, None] == layer, torch.inf).diagonal_scatter(one)
        cost = (dearer[:, None] + dearer).diagonal_scatter(dearer)
        gain = gain.masked_fill(cost > room, torch.inf)
        best = config.clone()
        for entry in divmod(int(gain.argmin()), m):
            best[layer[entry]] = entry % B
        # the predictions themselves, as rounding may make a gain out of none, for ever
        before, after = (space.predicted(tuple(c.tolist())) for c in (config, best))
        if not after < before:
            return config
        config = best
