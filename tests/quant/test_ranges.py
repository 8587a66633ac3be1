"""Histograms against counting, grids against trying every range."""

from __future__ import annotations

import pytest
import torch

from quant.ranges import BINS, Histogram, fit


def values(count=5000, seed=0, skew=1.0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=draw)
    return torch.where(x > 0, skew * x, x)


def seen(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


SETTINGS = {"symmetric": False, "search": "minmax", "percentile": 99.9}


def test_counts_do_not_depend_on_batches_or_their_order():
    x = torch.cat([torch.zeros(7), values() / 100, values(seed=1), 50 * values(seed=2)])
    whole = seen(x)
    for parts in (x.split(999), x.split(1200)[::-1], x.flip(0).split(3000)):
        found = seen(*parts)
        assert torch.equal(found.counts, whole.counts)
        assert (found.reach, found.low, found.high) == (whole.reach, whole.low, whole.high)
    assert whole.counts.sum() == len(x) and whole.reach in (128.0, 256.0)
    assert (whole.low, whole.high) == (float(x.min()), float(x.max()))


def test_histograms_of_parts_add_up_to_that_of_the_whole():
    parts = [values() / 100, 50 * values(seed=2), torch.zeros(7), values(seed=1)]
    whole = seen(*parts)
    for order in ((0, 1, 2, 3), (2, 3, 0, 1), (1, 2, 3, 0)):
        alone = [seen(parts[i]) for i in order] + [Histogram()]
        before = [h.counts.clone() for h in alone]
        found = sum(alone[1:], alone[0])
        assert torch.equal(found.counts, whole.counts)
        assert (found.reach, found.low, found.high) == (whole.reach, whole.low, whole.high)
        assert all(torch.equal(h.counts, b) for h, b in zip(alone, before, strict=True))


def test_every_value_lies_in_the_bin_of_its_centre():
    x = values()
    histogram = seen(x)
    width = 2 * histogram.reach / BINS
    for index in histogram.counts.nonzero()[::97, 0].tolist():
        centre = float(histogram.centres()[index])
        inside = ((x >= centre - width / 2) & (x < centre + width / 2)).sum()
        assert histogram.counts[index] == inside


def test_quantiles_are_those_of_the_values_up_to_a_bin():
    x = values(skew=3)
    histogram = seen(x)
    for q in (0.001, 0.1, 0.5, 0.9, 0.999):
        low, high = (float(x.quantile(q, interpolation=side)) for side in ("lower", "higher"))
        width = 2 * histogram.reach / BINS
        assert low - width <= histogram.quantile(q) <= high + width


def test_minmax_covers_everything_and_zero_is_on_the_grid():
    x = values(skew=5)
    grid = fit(seen(x), 4, **SETTINGS)
    assert float((grid.round(x) - x).abs().max()) <= float(grid.scale) * (0.5 + 1e-3) * 2
    assert float(grid.round(torch.zeros(1))) == 0.0
    assert float(grid.scale) == pytest.approx(float(x.max() - x.min()) / 15)
    assert len(grid.round(x).unique()) == 16


def test_a_tensor_of_one_sign_wastes_no_code():
    grid = fit(seen(values().abs()), 3, **SETTINGS)
    assert float(grid.zero) == 0
    grid = fit(seen(-values().abs()), 3, **SETTINGS)
    assert float(grid.zero) == 7


def test_symmetric_grids_have_zero_in_the_middle():
    grid = fit(seen(values(skew=5)), 4, **{**SETTINGS, "symmetric": True})
    assert float(grid.zero) == 8


def test_percentile_leaves_the_outermost_out():
    x = torch.cat([values(), torch.tensor([1000.0])])
    whole = fit(seen(x), 8, **SETTINGS)
    most = fit(seen(x), 8, **{**SETTINGS, "search": "percentile"})
    assert float(whole.scale) > 3.9 and 0.02 < float(most.scale) < 0.04


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_as_good_as_the_best_of_many_ranges(bits, symmetric):
    x = values(skew=4)
    found = fit(seen(x), bits, symmetric=symmetric, search="mse", percentile=99.9)
    error = float((found.round(x) - x).square().mean())
    low, high = float(x.min()), float(x.max())
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    best = min(
        error_of(x, a * low, b * high, bits, symmetric)
        for a in torch.linspace(0.05, 1, 20).tolist()
        for b in (torch.linspace(0.05, 1, 20).tolist() if not symmetric else [a])
    )
    assert error <= 1.03 * best
    assert error < 0.95 * error_of(x, low, high, bits, symmetric) or bits == 6


def error_of(x, low, high, bits, symmetric):
    scale = (high - low) / (2**bits - 1)
    zero = 2 ** (bits - 1) if symmetric else round(-low / scale)
    q = ((x / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero) * scale
    return float((q - x).square().mean())


def test_only_zeros_stay_zeros():
    for search in ("minmax", "percentile", "mse"):
        grid = fit(seen(torch.zeros(10)), 4, **{**SETTINGS, "search": search})
        assert float(grid.round(torch.zeros(1))) == 0 and float(grid.scale) > 0


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        seen(torch.tensor([0.0, torch.inf]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"search": "best"}, "search='best' must be one of"),
        ({"percentile": 50}, r"percentile=50 must lie in \(50, 100\]"),
    ],
)
def test_settings_that_do_not_exist_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        fit(seen(values()), 4, **{**SETTINGS, **change})
    with pytest.raises(ValueError, match="act_bits=17"):
        fit(seen(values()), 17, **SETTINGS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_value_at_the_reach_is_in_the_last_bin(dtype):
    histogram = Histogram()
    histogram.add(torch.tensor([-1.0, 0.0, 1.0], dtype=dtype))
    assert histogram.counts.shape == (BINS,) and histogram.counts.nonzero().flatten().tolist() == [
        0, BINS // 2, BINS - 1,
    ]  # fmt: skip
