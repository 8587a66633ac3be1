"""Fidelity figures against arithmetic done another way."""

import math

import numpy as np
import pytest
import torch

from evaluation.fidelity import compare, paired_drop


def test_fidelity_equals_loops_over_images_and_classes():
    generator = torch.Generator().manual_seed(3)
    f = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    q = f + 0.7 * torch.randn(7, 4, generator=generator, dtype=torch.float64)
    kl, signal, noise, same = 0.0, 0.0, 0.0, 0
    for a, b in zip(f.tolist(), q.tolist(), strict=True):
        za, zb = sum(map(math.exp, a)), sum(map(math.exp, b))
        for x, y in zip(a, b, strict=True):
            kl += math.exp(x) / za * math.log((math.exp(x) / za) / (math.exp(y) / zb)) / 7
            signal += x * x
            noise += (x - y) ** 2
        same += a.index(max(a)) == b.index(max(b))
    result = compare(f, q)
    assert 0 < same < 7
    assert result["agreement"] == pytest.approx(100 * same / 7, abs=1e-9)
    assert result["kl"] == pytest.approx(kl, abs=1e-9)
    assert result["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-9)


def test_kl_is_of_the_float_distribution_against_the_quantized_one():
    f = torch.tensor([[math.log(0.9), math.log(0.1)]], dtype=torch.float64)
    q = torch.tensor([[math.log(0.5), math.log(0.5)]], dtype=torch.float64)
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # the reverse is 0.511
    assert compare(f, q)["kl"] == pytest.approx(expected, abs=1e-12)


def test_float32_logits_of_large_size_are_compared_in_float64():
    f = torch.tensor([[1e4, 1e4 + 0.5], [3.0, -2e4]])
    q = torch.tensor([[1e4 + 0.5, 1e4], [3.0, -2e4]])
    p = 1 / (1 + math.exp(0.5))
    assert compare(f, q)["kl"] == pytest.approx((1 - 2 * p) * 0.5 / 2, abs=1e-9)


def test_equal_logits_agree_entirely_and_have_no_noise():
    f = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert compare(f, f.clone()) == {"agreement": 100.0, "kl": 0.0, "sqnr_db": math.inf}


@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (0, 5)])
def test_logits_of_other_images_or_classes_are_refused(shape):
    with pytest.raises(ValueError, match="same n > 0 images"):
        compare(torch.zeros(4 if shape[0] else 0, 5), torch.zeros(shape))


def answers(both: int, lost: int, won: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    before = [True] * (both + lost) + [False] * (won + neither)
    after = [True] * both + [False] * lost + [True] * won + [False] * neither
    return torch.tensor(before), torch.tensor(after)


def test_paired_interval_equals_the_example_of_the_statpsych_package():
    # ci.prop.ps(.05, 12, 4, 26, 6) by D. Bonett: 0.2548067 0.6251933
    drop = paired_drop(*answers(both=12, lost=26, won=4, neither=6))
    assert drop["ci95"] == pytest.approx([25.48067, 62.51933], abs=1e-5)
    assert drop["points"] == pytest.approx(100 * 22 / 48, abs=1e-12)


def test_paired_interval_equals_hand_computation():
    # n = 98, so n + 2 = 100; b = 9, c = 3: p = .10, r = .04, variance (.14 - .0036) / 100
    drop = paired_drop(*answers(both=80, lost=9, won=3, neither=6))
    half = 1.959963984540054 * math.sqrt(0.1364 / 100)
    assert drop["ci95"] == pytest.approx([100 * (0.06 - half), 100 * (0.06 + half)], abs=1e-9)


def test_drop_is_positive_when_quantization_costs_accuracy():
    assert paired_drop(*answers(5, 3, 1, 1))["points"] == pytest.approx(20.0)
    assert paired_drop(*answers(5, 1, 3, 1))["points"] == pytest.approx(-20.0)


def test_interval_stays_within_what_accuracies_can_differ_by():
    drop = paired_drop(*answers(0, 1, 0, 0))
    assert drop["ci95"][1] <= 100
    assert drop["ci95"][0] < 100 * 1 / 3 < drop["ci95"][1]


@pytest.mark.parametrize(
    ("p_lost", "p_won", "n"), [(0.02, 0.01, 700), (0.1, 0.05, 200), (0.01, 0.01, 1000)]
)
def test_interval_holds_the_true_drop_in_about_95_of_100_experiments(p_lost, p_won, n):
    rng = np.random.default_rng(7)
    trials = 2000
    held = 0
    for lost, won, rest in rng.multinomial(n, [p_lost, p_won, 1 - p_lost - p_won], trials):
        low, high = paired_drop(*answers(rest, lost, won, 0))["ci95"]
        held += low <= 100 * (p_lost - p_won) <= high
    assert 0.94 <= held / trials <= 0.975


def test_answers_about_different_images_are_refused():
    with pytest.raises(ValueError, match="same n > 0 images"):
        paired_drop(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
