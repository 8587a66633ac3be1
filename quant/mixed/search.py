"""Searches for the cheapest configuration that still meets a target.

Each asks `meets` about configurations, which is what costs time, and returns the cheapest one that
was seen to meet it. So a search never returns one that missed, however wrong its predictions were.

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
REST = 1 / 32  # of what could still be saved: how far apart budgets are at the end


class _Best:
    """Asks, each configuration once, and remembers the cheapest one that met the target."""

    def __init__(self, space: Space, meets: Meets) -> None:
        self.space, self.ask = space, meets
        self.known: dict[Config, bool] = {}
        self.config: Config | None = None

    def meets(self, config: Config) -> bool:
        if config not in self.known:
            self.known[config] = self.ask(config)
        met = self.known[config]
        cost = self.space.cost
        if met and (self.config is None or cost(config) < cost(self.config)):
            self.config = config
        return met


def bisection(space: Space, meets: Meets) -> Config | None:
    """Lower the least sensitive layers, as many as can be, width by width; None: none meets it.

    At every width, from the most bits down: order the layers that have come that far by their
    sensitivity one width lower, and bisect the length of the prefix that goes there.
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
        low, high = 0, len(order)  # `low` is met
        if best.meets(_prefix(current, order)):
            low = high
        while high - low > 1:
            middle = (low + high) // 2
            met = best.meets(_prefix(current, order[:middle]))
            low, high = (middle, high) if met else (low, middle)
        current = _prefix(current, order[:low])
    return best.config


def greedy(space: Space, meets: Meets) -> Config | None:
    """One layer one width lower at a time, most cost saved for the loss predicted; None: none.

    A layer whose step misses the target stays where it is for good.
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
    """The least predicted loss under a budget, and the least budget that meets the target.

    What a few hundred images say is not quite monotone in the budget. So the uniform widths below
    are asked about too, then budgets that are smaller and smaller; and single layers are lowered
    further from there, as `greedy` does.

    Args:
        space: with couplings, or without them (then a knapsack).
        meets: the target.
        rounds: of bisecting the budget, at most.
        seconds: that one integer programme may take, see `cheapest_loss`.
        steps: of lowering single layers at the end, at most.
        misses: so many budgets below the best one miss, and that is the end.
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
    assert best.config is not None  # the widest one at least
    _uniform(best, space.cost(best.config))
    _below(best, seconds, misses)
    _lower_one_by_one(best, best.config, steps)
    return best.config


def _uniform(best: _Best, below: float) -> None:
    """Ask about the uniform widths that cost less, the least first, until one meets the target."""
    for width in range(len(best.space.widths)):
        config = (width,) * len(best.space.names)
        if best.space.cost(config) >= below or best.meets(config):
            return


def _below(best: _Best, seconds: float, misses: int) -> None:
    """Ask about budgets below the best cost, a part of the rest apart, anew below each that meets.

    The rest is what the narrowest configuration would save.
    """
    space, missed = best.space, 0
    least = space.cost(space.narrowest)
    while missed < misses:
        assert best.config is not None  # see `quadratic`
        cost = space.cost(best.config)
        best.meets(cheapest_loss(space, cost - REST * (missed + 1) * (cost - least), seconds))
        missed = 0 if space.cost(best.config) < cost else missed + 1


def _lower_one_by_one(best: _Best, current: Config, steps: int | None = None) -> None:
    """Most cost saved for the loss predicted first; a layer that misses the target stays."""
    space, free, done = best.space, set(range(len(current))), 0
    while lower := [_prefix(current, [i]) for i in free if current[i] > 0]:
        if done == steps:
            return
        done += 1
        config = max(lower, key=partial(_worth, space, current))
        if best.meets(config):
            current = config
        else:
            free -= {i for i in free if config[i] != current[i]}


def _prefix(config: Config, layers: Sequence[int]) -> Config:
    """One width lower in these layers."""
    chosen = set(layers)
    return tuple(at - 1 if i in chosen else at for i, at in enumerate(config))


def _worth(space: Space, current: Config, lower: Config) -> float:
    """Cost saved for every unit of loss that is predicted."""
    saved = space.cost(current) - space.cost(lower)
    more = space.predicted(lower) - space.predicted(current)
    return saved / more if more > 0 else float("inf")


SEARCHES: dict[str, Search] = {"bisection": bisection, "greedy": greedy, "quadratic": quadratic}
