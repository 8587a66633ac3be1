"""The interval against the textbook's formula in loops, and against the t interval of a mean."""

import math
import random
from statistics import mean, stdev

import pytest
from scipy.stats import t

from evaluation.jackknife import jackknife


def draws(count: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(1, 3) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 10, 57])
def test_of_a_mean_it_is_the_t_interval(count):
    x = draws(count, seed=count)
    found = jackknife(mean(x), [(sum(x) - value) / (count - 1) for value in x])
    half = t.ppf(0.975, count - 1) * stdev(x) / math.sqrt(count)
    assert found["points"] == mean(x)
    assert found["ci95"] == pytest.approx([mean(x) - half, mean(x) + half], abs=1e-9)


def test_of_a_ratio_left_out_by_groups_it_is_the_formula_in_loops():
    x, y = draws(12, seed=1), [abs(v) + 5 for v in draws(12, seed=2)]
    groups = [range(i, i + 3) for i in range(0, 12, 3)]
    ratios = []
    for group in groups:
        kept = [i for i in range(12) if i not in group]
        ratios.append(sum(x[i] for i in kept) / sum(y[i] for i in kept))
    whole = sum(x) / sum(y)
    centre = sum(ratios) / 4
    variance = 3 / 4 * sum((r - centre) ** 2 for r in ratios)
    half = 3.182446305284263 * math.sqrt(variance)  # Student's t, 3 degrees of freedom
    assert half > 0.1
    assert jackknife(whole, ratios)["ci95"] == pytest.approx([whole - half, whole + half], abs=1e-9)


def test_differences_that_are_all_alike_have_no_spread():
    assert jackknife(2.5, [2.5] * 7) == {"points": 2.5, "ci95": [2.5, 2.5]}


@pytest.mark.parametrize("left", [3.0, math.nan])
def test_a_single_image_says_nothing_of_the_spread(left):
    assert jackknife(3.0, [left]) == {"points": 3.0, "ci95": [-100.0, 100.0]}


def test_the_interval_does_not_leave_what_is_possible():
    assert jackknife(10.0, [-80.0, 90.0])["ci95"] == [-100.0, 100.0]


def test_no_image_and_figures_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="at least one group"):
        jackknife(1.0, [])
    with pytest.raises(ValueError, match=r"not finite without group \[1\]"):
        jackknife(1.0, [1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match="is nan over all images"):
        jackknife(math.nan, [1.0, 2.0])
