"""Searches for the cheapest configuration that meets a target.

Each search evaluates configurations with `meets`, which is the expensive part, and returns the
cheapest one that met the target. So wrong predictions never lead to a configuration that misses it.

Source of `bisection`: Schaefer et al., arXiv 2306.04879.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from quant.mixed.integer_program import cheapest_loss
from quant.mixed.space import Config, Space

Meets = Callable[[Config], bool]
Search = Callable[[Space, Meets], Config | None]
BUDGET_STEP = 1 / 32  # distance of the final budgets, as a fraction of what could still be saved


class _Best:
    """Evaluates each configuration once and remembers the cheapest one that met the target."""

    def __init__(self, space: Space, meets: Meets) -> None:
        self.space, self.evaluate = space, meets
        self.results: dict[Config, bool] = {}
        self.config: Config | None = None

    def meets(self, config: Config) -> bool:
        if config not in self.results:
            self.results[config] = self.evaluate(config)
        met = self.results[config]
        cost = self.space.cost
        if met and (self.config is None or cost(config) < cost(self.config)):
            self.config = config
        return met


def bisection(space: Space, meets: Meets) -> Config | None:
    """Lower as many of the least sensitive layers as possible, one width at a time.

    At each width, from the most bits down, sort the layers that have it by their sensitivity at the
    next lower width, and bisect how many of them can be lowered.

    Returns:
        the cheapest configuration that met the target; None if the widest one misses it.
    """
    best = _Best(space, meets)
    current = space.widest
    if not best.meets(current):
        return None
    for width in range(len(space.widths) - 1, 0, -1):
        order = [
            int(i)
            for i in torch.argsort(space.sensitivity[:, width - 1], stable=True)
            if current[int(i)] == width
        ]
        low, high = 0, len(order)  # lowering `low` layers meets the target
        if best.meets(_prefix(current, order)):
            low = high
        while high - low > 1:
            middle = (low + high) // 2
            met = best.meets(_prefix(current, order[:middle]))
            low, high = (middle, high) if met else (low, middle)
        current = _prefix(current, order[:low])
    return best.config


def greedy(space: Space, meets: Meets) -> Config | None:
    """Lower one layer by one width at a time, by the best ratio of saved cost to predicted loss.

    A layer whose step misses the target is not lowered again.

    Returns:
        the cheapest configuration that met the target; None if the widest one misses it.
    """
    best = _Best(space, meets)
    if best.meets(space.widest):
        _lower_one_by_one(best, space.widest)
    return best.config


def quadratic(
    space: Space,
    meets: Meets,
    rounds: int = 12,
    seconds: float = 5,
    steps: int = 16,
    misses: int = 6,
) -> Config | None:
    """Minimise the predicted loss under a budget, and bisect for the lowest budget that suffices.

    A result on a few hundred images is not quite monotone in the budget. So cheaper uniform
    configurations are tried as well, then lower budgets, and finally single layers are lowered
    further, as in `greedy`.

    Args:
        space: the layers; without couplings the integer programme is a knapsack.
        meets: whether a configuration meets the target.
        rounds: maximum number of bisection steps on the budget.
        seconds: time limit of each integer programme, see `cheapest_loss`.
        steps: maximum number of steps in which single layers are lowered at the end.
        misses: stop lowering the budget after this many consecutive misses.

    Returns:
        the cheapest configuration that met the target; None if the widest one misses it.
    """
    best = _Best(space, meets)
    if not best.meets(space.widest):
        return None
    if best.meets(space.narrowest):
        return best.config
    low, high = space.cost(space.narrowest), space.cost(space.widest)
    near = 1e-3 * (high - low)
    for _ in range(rounds):
        if high - low <= near:
            break
        budget = (low + high) / 2
        config = cheapest_loss(space, budget, seconds)
        if best.meets(config):
            high = min(budget, space.cost(config))
        else:
            low = budget
    assert best.config is not None  # at least the widest one
    _uniform(best, space.cost(best.config))
    _below(best, seconds, misses)
    _lower_one_by_one(best, best.config, steps)
    return best.config


def _uniform(best: _Best, below: float) -> None:
    """Try the uniform configurations below a cost, cheapest first, until one meets the target."""
    for width in range(len(best.space.widths)):
        config = (width,) * len(best.space.names)
        if best.space.cost(config) >= below or best.meets(config):
            return


def _below(best: _Best, seconds: float, misses: int) -> None:
    """Try budgets below the best cost in steps of `BUDGET_STEP`; start over below each success.

    The steps are relative to what the narrowest configuration would save.
    """
    space, missed = best.space, 0
    least = space.cost(space.narrowest)
    while missed < misses:
        assert best.config is not None  # see `quadratic`
        cost = space.cost(best.config)
        budget = cost - BUDGET_STEP * (missed + 1) * (cost - least)
        best.meets(cheapest_loss(space, budget, seconds))
        missed = 0 if space.cost(best.config) < cost else missed + 1


def _lower_one_by_one(best: _Best, current: Config, steps: int | None = None) -> None:
    """Lower layers by the best ratio of saved cost to predicted loss, as described in `greedy`."""
    space, free, done = best.space, set(range(len(current))), 0
    while lower := [_prefix(current, [i]) for i in free if current[i] > 0]:
        if done == steps:
            return
        done += 1
        config = max(lower, key=partial(_saving_per_loss, space, current))
        if best.meets(config):
            current = config
        else:
            free -= {i for i in free if config[i] != current[i]}


def _prefix(config: Config, layers: Sequence[int]) -> Config:
    """`config` with these layers one width lower."""
    chosen = set(layers)
    return tuple(at - 1 if i in chosen else at for i, at in enumerate(config))


def _saving_per_loss(space: Space, current: Config, lower: Config) -> float:
    """Cost saved per unit of predicted loss."""
    saved = space.cost(current) - space.cost(lower)
    more = space.predicted(lower) - space.predicted(current)
    return saved / more if more > 0 else float("inf")


SEARCHES: dict[str, Search] = {"bisection": bisection, "greedy": greedy, "quadratic": quadratic}
