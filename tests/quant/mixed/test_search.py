"""Searches and the integer programme against trying every configuration."""

import itertools
from functools import partial

import pytest
import torch

from quant.mixed.integer_program import cheapest_loss, factor
from quant.mixed.local_search import locally_optimal
from quant.mixed.search import SEARCHES, bisection, greedy, quadratic
from quant.mixed.space import Space


def space(N=5, seed=0, couplings=True, widths=(2, 4, 8)):
    """Layers whose output changes shrink with the bits, some against and some with each other."""
    draw = torch.Generator().manual_seed(seed)
    B = len(widths)
    u = torch.randn(N, 1, 6, generator=draw, dtype=torch.float64)
    noise = torch.randn(N, B, 6, generator=draw, dtype=torch.float64)
    size = torch.tensor([2.0 ** (2 - b) for b in widths]).double()[None, :, None]
    U = ((u + 0.3 * noise) * size).reshape(N * B, 6)
    A = (U @ U.T).reshape(N, B, N, B)
    costs = torch.rand(N, 1, generator=draw, dtype=torch.float64) * torch.tensor(widths).double()
    sensitivity = torch.einsum("ibib->ib", A) / 2
    names = [f"layer{i}" for i in range(N)]
    return Space(names, list(widths), costs, sensitivity, A if couplings else None)


def every(s):
    return itertools.product(range(len(s.widths)), repeat=len(s.names))


@pytest.mark.parametrize("couplings", [True, False])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_programme_finds_what_trying_everything_finds(seed, part, couplings):
    s = space(seed=seed, couplings=couplings)
    budget = part * s.cost(s.widest)
    wanted = min((c for c in every(s) if s.cost(c) <= budget), key=s.predicted)
    found = cheapest_loss(s, budget, 60)
    assert s.cost(found) <= budget * (1 + 1e-9)
    assert s.predicted(found) <= s.predicted(wanted) * (1 + 2e-3)


def test_a_budget_below_the_least_cost_is_refused():
    s = space()
    with pytest.raises(ValueError, match="below the least possible cost"):
        cheapest_loss(s, 0.9 * s.cost(s.narrowest), 1)


def test_the_factor_gives_the_matrix_back():
    s = space()
    A = s.couplings.reshape(15, 15)
    V = factor(A)
    assert len(V) == 6
    assert torch.allclose(V.T @ V * A.abs().max(), A, rtol=0, atol=1e-9)


def test_predictions_equal_plain_sums():
    s = space()
    config = (0, 2, 1, 1, 0)
    wanted = sum(float(s.couplings[i, config[i], j, config[j]]) for i in range(5) for j in range(5))
    assert s.predicted(config) == pytest.approx(wanted / 2, rel=1e-12)
    plain = space(couplings=False)
    alone = sum(float(plain.sensitivity[i, at]) for i, at in enumerate(config))
    assert plain.predicted(config) == pytest.approx(alone, rel=1e-12)
    assert s.cost(config) == pytest.approx(sum(float(s.costs[i, b]) for i, b in enumerate(config)))
    assert s.bits(config) == dict(zip(s.names, (2, 8, 4, 4, 2), strict=True))


@pytest.mark.parametrize("name", sorted(SEARCHES))
@pytest.mark.parametrize("seed", range(4))
def test_a_search_returns_the_cheapest_that_it_saw_meeting_the_target(name, seed):
    s, asked = space(seed=seed), {}
    limit = s.predicted(s.narrowest) / 5
    unlike = torch.Generator().manual_seed(seed)  # predictions are wrong by up to a half

    def meets(config):
        assert config not in asked, "asked twice"
        factor = 0.5 + float(torch.rand((), generator=unlike))
        asked[config] = s.predicted(config) * factor <= limit
        return asked[config]

    found = SEARCHES[name](s, meets)
    met = [c for c, good in asked.items() if good]
    assert found in met and s.cost(found) == min(map(s.cost, met))
    assert s.cost(found) < s.cost(s.widest)


@pytest.mark.parametrize("search", [bisection, greedy, quadratic])
def test_where_nothing_meets_the_target_nothing_is_returned(search):
    assert search(space(), lambda config: False) is None


@pytest.mark.parametrize("search", [bisection, greedy, quadratic])
def test_where_everything_meets_the_target_the_narrowest_is_returned(search):
    s = space()
    assert search(s, lambda config: True) == s.narrowest


def test_the_quadratic_search_is_near_the_optimum_where_predictions_are_right():
    s = space(N=6, seed=3)
    limit = s.predicted(s.narrowest) / 10
    best = min((c for c in every(s) if s.predicted(c) <= limit), key=s.cost)
    found = quadratic(s, lambda c: s.predicted(c) <= limit)
    assert s.cost(found) <= 1.02 * s.cost(best)
    assert s.cost(found) <= s.cost(greedy(s, lambda c: s.predicted(c) <= limit))
    assert s.cost(found) <= s.cost(bisection(s, lambda c: s.predicted(c) <= limit))


@pytest.mark.parametrize("seed", range(4))
def test_the_quadratic_search_never_ends_above_a_uniform_width_that_meets_the_target(seed):
    s = space(seed=seed, widths=(2, 3, 4, 8))
    good = {(1,) * 5, (2,) * 5, s.widest}  # whatever is predicted
    assert quadratic(s, good.__contains__) == (1,) * 5
    best = quadratic(s, lambda config: config in good or config == (1, 1, 1, 1, 0))
    assert best == (1, 1, 1, 1, 0), "single layers are lowered from there"


@pytest.mark.parametrize("seed", range(2))
def test_a_budget_that_misses_is_not_the_end_where_a_smaller_one_meets(seed):
    s, asked = space(N=6, seed=seed, widths=(2, 3, 4, 6, 8)), set()
    limit = s.predicted(s.narrowest) / 10
    search = partial(quadratic, s, seconds=0.2, steps=0)

    def as_predicted(config):
        asked.add(config)
        return s.predicted(config) <= limit

    plain = s.cost(search(as_predicted, misses=0))

    def luckily(config):
        luck = config not in asked and 0.7 * plain < s.cost(config) < 0.97 * plain
        return luck or s.predicted(config) <= limit

    assert s.cost(search(luckily, misses=0)) == plain
    assert s.cost(search(luckily)) < 0.97 * plain


def test_bisection_lowers_a_prefix_of_the_order():
    s = space(couplings=False, widths=(4, 8))
    order = torch.argsort(s.sensitivity[:, 0]).tolist()
    allowed = set(order[:3])
    lowered = lambda config: {i for i, at in enumerate(config) if at == 0}  # noqa: E731
    found = bisection(s, lambda config: lowered(config) <= allowed)
    assert lowered(found) == allowed


def test_greedy_leaves_a_layer_that_may_not_be_lowered():
    s = space(couplings=False)
    found = greedy(s, lambda config: config[2] == 2)
    assert found == (0, 0, 2, 0, 0)


def test_greedy_takes_the_most_saving_for_the_loss_first():
    asked = []
    s = Space(
        ["a", "b"],
        [4, 8],
        torch.tensor([[1.0, 2.0], [1.0, 3.0]]).double(),
        torch.tensor([[0.1, 0.0], [0.3, 0.0]]).double(),
    )  # a saves 1 for 0.1, b saves 2 for 0.3
    greedy(s, lambda config: asked.append(config) or True)
    assert asked == [(1, 1), (0, 1), (0, 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": [4, 2, 8]}, "ascending"),
        ({"costs": torch.zeros(5, 2)}, "costs"),
        ({"sensitivity": torch.zeros(4, 3)}, "sensitivity"),
        ({"couplings": torch.zeros(5, 3, 5, 2)}, "couplings"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    s = space()
    given = {k: getattr(s, k) for k in ("names", "widths", "costs", "sensitivity", "couplings")}
    with pytest.raises(ValueError, match=message):
        Space(**{**given, **change})


@pytest.mark.parametrize("couplings", [True, False])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(12))
def test_no_change_of_two_layers_improves_what_local_search_finds(seed, part, couplings):
    s = space(seed=seed, couplings=couplings)
    budget = part * s.cost(s.widest)
    found = locally_optimal(s, budget)
    assert s.cost(found) <= budget * (1 + 1e-9)
    for i, j in itertools.combinations(range(5), 2):
        for a, b in itertools.product(range(3), repeat=2):
            other = list(found)
            other[i], other[j] = a, b
            if s.cost(tuple(other)) <= budget:
                assert s.predicted(tuple(other)) >= s.predicted(found) * (1 - 1e-9)


def test_local_search_is_near_the_optimum():
    for seed in range(8):
        s = space(N=6, seed=seed)
        budget = 0.4 * s.cost(s.widest)
        best = min((c for c in every(s) if s.cost(c) <= budget), key=s.predicted)
        assert s.predicted(locally_optimal(s, budget)) <= 1.3 * s.predicted(best)


def test_many_layers_are_no_harder():
    """SCIP alone gives nothing of use here in so short a time."""
    s = space(N=60, seed=1)
    found = cheapest_loss(s, 0.4 * s.cost(s.widest), 0.5)
    assert s.cost(found) <= 0.4 * s.cost(s.widest) * (1 + 1e-9)
    assert s.predicted(found) < 0.1 * s.predicted((1,) * 60)
