"""Grids: their fits, their codes and what they refuse."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.grid import Grid, fit

SYMMETRIC = pytest.mark.parametrize("symmetric", [False, True])
GRANULARITY = pytest.mark.parametrize("granularity", ["channel", "tensor", "group"])


def weights(g=2, r=3, c=10, seed=0, dtype=torch.float64):
    return (reference.random_weights(g, r, c, seed) + 0.3).to(dtype)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_an_asymmetric_minmax_grid_spans_each_row_and_holds_zero(bits):
    W = weights()
    W[0, 0] = W[0, 0].abs() + 1  # all on one side: the range still holds 0
    W[0, 1] = -W[0, 1].abs() - 1
    grid = fit(W, bits, granularity="channel", symmetric=False, search="minmax")
    low, high = W.amin(2, keepdim=True).clamp(max=0), W.amax(2, keepdim=True).clamp(min=0)
    torch.testing.assert_close(grid.scale, (high - low) / (2**bits - 1), rtol=0, atol=1e-12)
    assert torch.equal(grid.zero, (-low / grid.scale).round())
    assert torch.equal(grid.round(torch.zeros_like(W)), torch.zeros_like(W))
    assert ((grid.round(W) - W).abs() <= (1.5 if bits == 1 else 1) * grid.scale).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_symmetric_grid_holds_the_largest_weight_of_either_sign(bits):
    W = weights()
    grid = fit(W, bits, granularity="channel", symmetric=True, search="minmax")
    assert (grid.zero == 2 ** (bits - 1)).all()
    most = W.abs().amax(2, keepdim=True)
    for end in (most, -most):
        torch.testing.assert_close(grid.round(end), end, rtol=0, atol=1e-12)
    assert (grid.codes(most) == grid.top).all()


@pytest.mark.parametrize("search", ["minmax", "mse"])
def test_one_bit_around_zero_is_refused(search):
    with pytest.raises(ValueError, match="symmetric=true needs at least 2 bits"):
        fit(weights(), 1, granularity="channel", symmetric=True, search=search)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_row_of_one_sign_is_fitted_by_the_best_step_of_its_codes(bits):
    W = torch.rand(1, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = fit(W, bits, granularity="channel", symmetric=True, search="mse", norm=2.0)
    steps = torch.linspace(1e-3, 2, 4000, dtype=torch.float64)
    codes = (W[0, 0] / steps[:, None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    best = (codes * steps[:, None] - W[0, 0]).norm(dim=1).min()
    assert float((grid.round(W) - W).norm()) <= 1.03 * float(best)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_with_few_bits_no_other_zero_code_is_better(bits):
    W = weights(r=40, c=27, seed=5)
    low, high = W.amin(2).clamp(max=0), W.amax(2).clamp(min=0)
    tried = []
    for i in range(80):
        scale = ((1 - i / 100) * (high - low)[..., None] / (2**bits - 1)).expand_as(W)
        for zero in range(2**bits):
            q = reference.nearest(W, scale, torch.full_like(scale, zero), bits)
            tried.append((q - W).abs().pow(2.4).sum(2))
    for sign in (1, -1):
        grid = fit(sign * W, bits, granularity="channel", symmetric=False, search="mse")
        found = (grid.round(sign * W) - sign * W).abs().pow(2.4).sum(2)
        torch.testing.assert_close(found, torch.stack(tried).amin(0), rtol=1e-2, atol=1e-12)


@SYMMETRIC
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_equals_trying_every_grid_value(bits, symmetric):
    W = weights()
    for granularity in ("channel", "tensor", "group"):
        grid = fit(
            W, bits, granularity=granularity, symmetric=symmetric, search="mse", group_size=4
        )
        s, z = reference.spread(grid, *W.shape)
        expected = reference.nearest(W, s, z, bits)
        torch.testing.assert_close(grid.round(W), expected, rtol=0, atol=1e-12)


@GRANULARITY
@SYMMETRIC
@pytest.mark.parametrize("bits", [4, 5])
def test_the_mse_grid_is_the_best_of_eighty_ranges_under_its_norm(bits, symmetric, granularity):
    W = weights(c=9)
    options = {"granularity": granularity, "symmetric": symmetric, "group_size": 4}
    best = fit(W, bits, **options, search="mse")
    cells = {
        "channel": [(a, i, slice(None)) for a in range(2) for i in range(3)],
        "tensor": [(slice(None), slice(None), slice(None))],
        "group": [(a, i, slice(k, k + 4)) for a in range(2) for i in range(3) for k in (0, 4, 8)],
    }[granularity]
    bs, bz = reference.spread(best, *W.shape)
    for cell in cells:
        w = W[cell].flatten()
        low, high = w.amin().clamp(max=0), w.amax().clamp(min=0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        errors = []
        for p in [1 - i / 100 for i in range(80)]:
            s = p * (high - low) / (2**bits - 1)
            z = torch.tensor(2.0 ** (bits - 1)) if symmetric else (-p * low / s).round()
            q = reference.nearest(w, s.expand_as(w), z.expand_as(w), bits)
            errors.append(float((q - w).abs().pow(2.4).sum()))
        s, z = bs[cell].flatten(), bz[cell].flatten()
        error = float((reference.nearest(w, s, z, bits) - w).abs().pow(2.4).sum())
        if symmetric:  # the range up to the last code is tried as well
            s_ = high / (2 ** (bits - 1) - 1)
            q = reference.nearest(w, s_.expand_as(w), z.expand_as(w), bits)
            errors.append(float((q - w).abs().pow(2.4).sum()))
        assert error == pytest.approx(min(errors), rel=1e-9)
        if errors.index(min(errors)) < 80:
            share = 1 - errors.index(min(errors)) / 100
            assert float(s[0]) == pytest.approx(share * float(high - low) / (2**bits - 1))


def test_shrinking_helps_heavy_tails():
    W = weights(c=200)
    W[:, :, 0] = 12
    errors = {}
    for search in ("minmax", "mse"):
        grid = fit(W, 3, granularity="channel", symmetric=False, search=search)
        errors[search] = (grid.round(W) - W).abs().pow(2.4).sum()
    assert errors["mse"] < 0.8 * errors["minmax"]


@SYMMETRIC
def test_per_tensor_one_step_size_serves_all_groups_and_rows(symmetric):
    W = weights()
    grid = fit(W, 3, granularity="tensor", symmetric=symmetric, search="minmax")
    assert grid.scale.shape == grid.zero.shape == (1, 1, 1)
    step = W.abs().max() / 3 if symmetric else (W.max() - W.min()) / 7
    assert float(grid.scale) == pytest.approx(float(step))


@SYMMETRIC
@pytest.mark.parametrize("width", [1, 3, 4, 10, 99])
def test_column_groups_are_fitted_as_layers_of_their_own_and_the_last_may_be_ragged(
    width, symmetric
):
    W = weights(c=10)
    grid = fit(W, 3, granularity="group", symmetric=symmetric, search="mse", group_size=width)
    assert grid.scale.shape == (2, 3, -(-10 // width))
    parts = [
        fit(part, 3, granularity="channel", symmetric=symmetric, search="mse").round(part)
        for part in W.split(width, dim=2)
    ]
    torch.testing.assert_close(grid.round(W), torch.cat(parts, 2), rtol=0, atol=1e-12)


@GRANULARITY
@SYMMETRIC
@pytest.mark.parametrize("search", ["minmax", "mse"])
@pytest.mark.parametrize("bits", [2, 4, 16])
def test_rows_of_zeros_stay_zero(bits, search, symmetric, granularity):
    W = weights(dtype=torch.float32)
    W[0, 1] = 0
    W[1] = 0
    grid = fit(W, bits, granularity=granularity, symmetric=symmetric, search=search, group_size=4)
    Q = grid.round(W)
    assert (grid.scale > 0).all() and Q.isfinite().all()
    assert (Q[0, 1] == 0).all() and (Q[1] == 0).all()


@SYMMETRIC
@pytest.mark.parametrize("search", ["minmax", "mse"])
@pytest.mark.parametrize("bits", [2, 4, 16])
def test_weights_too_small_for_a_step_size_give_no_nan(bits, search, symmetric):
    W = torch.tensor([1e-45, -3e-45, 1e-42, 0]).expand(1, 2, 4).clone()
    W[0, 1] = torch.tensor([1e-45, 0, 0, 0])
    grid = fit(W, bits, granularity="channel", symmetric=symmetric, search=search)
    assert (grid.scale > 0).all() and grid.zero.isfinite().all()
    assert (grid.round(W).abs() <= 1e-41).all()


@GRANULARITY
@SYMMETRIC
@pytest.mark.parametrize("bits", [1, 2, 8, 16])
def test_codes_decode_to_the_rounded_weights(bits, symmetric, granularity):
    W, bits = weights(), max(bits, 2) if symmetric else bits
    grid = fit(W, bits, granularity=granularity, symmetric=symmetric, search="minmax", group_size=4)
    codes = grid.codes(W)
    assert torch.equal(codes, codes.round())
    assert codes.min() >= 0 and codes.max() <= 2**bits - 1 == grid.top
    assert torch.equal(grid.decode(codes), grid.round(W))
    assert torch.equal(grid.codes(grid.decode(codes)), codes)
    assert torch.equal(grid.round(grid.round(W)), grid.round(W))


def test_sixteen_bits_lose_almost_nothing():
    W = weights(dtype=torch.float32)
    grid = fit(W, 16, granularity="channel", symmetric=False, search="mse")
    assert ((grid.round(W) - W).abs() <= 0.51 * grid.scale).all()


@GRANULARITY
def test_the_grid_of_chosen_columns_rounds_as_the_whole_grid_does(granularity):
    W = weights()
    grid = fit(W, 3, granularity=granularity, symmetric=False, search="mse", group_size=4)
    index = torch.tensor([[9, 0, 4, 4, 3], [1, 8, 7, 2, 0]])
    pick = index[:, None].expand(2, 3, 5)
    assert torch.equal(grid.columns(index).round(W.gather(2, pick)), grid.round(W).gather(2, pick))
    again = torch.tensor([[4, 1], [0, 0]])
    twice = grid.columns(index).columns(again)
    pick = index.gather(1, again)[:, None].expand(2, 3, 2)
    assert torch.equal(twice.round(W.gather(2, pick)), grid.round(W).gather(2, pick))


@GRANULARITY
def test_the_grid_of_chosen_rows_rounds_as_the_whole_grid_does(granularity):
    W = weights()
    grid = fit(W, 3, granularity=granularity, symmetric=False, search="mse", group_size=4)
    index = torch.tensor([2, 0])
    assert torch.equal(grid.rows(index).round(W[:, index]), grid.round(W)[:, index])


def test_rounding_leaves_its_argument_alone():
    W = weights()
    kept = W.clone()
    grid = fit(W, 2, granularity="channel", symmetric=False, search="mse")
    grid.round(W), grid.codes(W)
    assert torch.equal(W, kept)


def test_the_top_code_follows_from_the_bits():
    one = torch.ones(1, 1, 1)
    assert [Grid(one, one, bits).top for bits in (1, 4, 16)] == [1, 15, 65535]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, "bits=0 must lie in 1 ... 16"),
        ({"bits": 17}, "bits=17 must lie in 1 ... 16"),
        ({"granularity": "cell"}, "granularity='cell' must be one of channel, tensor, group"),
        ({"search": "best"}, "search='best' must be minmax, mse or hmse"),
        ({"granularity": "group", "group_size": 0}, "group_size=0 must be at least 1 column"),
    ],
)
def test_a_bad_argument_is_named_with_what_would_be_right(change, message):
    options = {
        "bits": 4,
        "granularity": "channel",
        "symmetric": False,
        "search": "minmax",
        **change,
    }
    with pytest.raises(ValueError, match=message):
        fit(weights(), **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    W = weights()
    W[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"NaN or infinite.*checkpoint"):
        fit(W, 4, granularity="channel", symmetric=False, search="minmax")


def test_hmse_takes_the_range_with_the_least_weighed_error():
    W = torch.randn(1, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    h = torch.rand(1, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) ** 4
    settings = {"granularity": "channel", "symmetric": False}
    grid = fit(W, 4, search="hmse", importance=h, **settings)
    found = (h * (grid.round(W) - W) ** 2).sum(2)
    low, high = W.amin(2).clamp(max=0), W.amax(2).clamp(min=0)
    tried = []
    for i in range(80):
        p = 1 - i / 100
        scale = p * (high - low) / 15
        zero = torch.round(-p * low / scale)
        code = (W / scale[..., None] + zero[..., None]).round().clamp(0, 15)
        q = (code - zero[..., None]) * scale[..., None]
        tried.append((h * (q - W) ** 2).sum(2))
    torch.testing.assert_close(found, torch.stack(tried).amin(0), rtol=1e-9, atol=1e-12)
    plain = fit(W, 4, search="mse", **settings)
    assert (found <= (h * (plain.round(W) - W) ** 2).sum(2) + 1e-12).all()


def test_hmse_of_a_row_that_does_not_matter_is_that_of_equal_weights():
    W = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(3))
    settings = {"granularity": "channel", "symmetric": False, "search": "hmse"}
    nothing = fit(W, 3, importance=torch.zeros_like(W), **settings)
    alike = fit(W, 3, importance=torch.ones_like(W), **settings)
    assert torch.equal(nothing.scale, alike.scale)


def test_hmse_without_the_importance_of_the_weights_is_refused():
    with pytest.raises(ValueError, match="needs the importance"):
        fit(torch.ones(1, 2, 3), 4, granularity="channel", symmetric=False, search="hmse")
