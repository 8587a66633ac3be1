"""Streaming Hessians against one product over everything."""

from __future__ import annotations

import pytest
import torch

from quant.grid import fit
from quant.hessian import HessianSum, uncentred
from quant.methods import gptq
from quant.problem import LayerProblem


def inputs(g=2, c=5, n=60, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(g, c, n, generator=draw, dtype=torch.float64) + 0.5).to(dtype)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 13, 40], [59, 1]])
def test_the_partition_into_batches_changes_nothing(sizes, dtype, tolerance):
    X = inputs(dtype=dtype)
    total = HessianSum()
    for part in X.split(sizes, dim=2):
        total.add(part)
    X = X.double()
    assert total.n == 60 and total.hessian().dtype == torch.float64
    close(total.hessian(), 2 / 60 * X @ X.mT, tolerance * 5)


def test_float32_sums_over_many_batches_keep_float64_precision():
    X = inputs(g=1, c=3, n=20_000, dtype=torch.float32) + 10
    total = HessianSum()
    for part in X.split(10, dim=2):
        total.add(part)
    exact = 2 / 20_000 * X.double() @ X.double().mT
    assert ((total.hessian() - exact).abs() / exact).max() < 1e-7


def test_the_hessian_is_exactly_symmetric_and_a_mixed_mean_is_not():
    X, Y = inputs(c=40, dtype=torch.float32), inputs(c=40, seed=1, dtype=torch.float32)
    own, mixed = HessianSum(), HessianSum()
    own.add(X)
    mixed.add(X, Y)
    assert torch.equal(own.hessian(), own.hessian().mT)
    close(mixed.mean(), 2 / 60 * X.double() @ Y.double().mT, 1e-5)


def test_a_sum_goes_on_from_an_earlier_total():
    X = inputs()
    first = HessianSum()
    first.add(X[..., :20])
    second = HessianSum(
        first.total, first.inputs, first.others, first.shift, first.other_shift, first.n
    )
    second.add(X[..., 20:])
    close(second.hessian(), 2 / 60 * X @ X.mT)


def test_adding_leaves_the_inputs_alone():
    X = inputs()
    kept = X.clone()
    HessianSum().add(X)
    assert torch.equal(X, kept)


def test_nothing_added_is_refused():
    with pytest.raises(ValueError, match="no input was seen"):
        HessianSum().hessian()


def test_the_centred_hessian_is_that_of_inputs_without_their_mean():
    X = 3 + torch.randn(2, 5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    total = HessianSum()
    for part in X.split(11, dim=2):
        total.add(part)
    torch.testing.assert_close(total.input_mean(), X.mean(2), rtol=0, atol=1e-9)
    apart = X - X.mean(2, keepdim=True)
    expected = 2 / 40 * apart @ apart.mT
    torch.testing.assert_close(total.covariance(), expected, rtol=0, atol=1e-9)
    back = uncentred(total.covariance(), total.input_mean())
    torch.testing.assert_close(back, 2 / 40 * X @ X.mT, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ratio", [10, 100, 1000, 10_000])
@pytest.mark.parametrize("parts", [1, 7, 2500])
def test_a_mean_far_above_the_deviation_costs_no_digits(ratio, parts):
    draw = torch.Generator().manual_seed(0)
    X = (1 + torch.randn(1, 16, 5000, generator=draw, dtype=torch.float64) / ratio).float()
    total = HessianSum()
    for part in X.chunk(parts, 2):
        total.add(part)
    D = X.double() - X.double().mean(2, keepdim=True)
    exact = 2 / 5000 * D @ D.mT
    H = total.covariance().float()
    assert float((H - exact).norm() / exact.norm()) < 1e-5
    W = torch.randn(1, 8, 16, generator=draw)
    grid = fit(W, 4, granularity="channel", symmetric=False, search="mse")
    found, right = (
        gptq.quantize(LayerProblem(W, h).prepared(0.01), grid, order="diag")
        for h in (H, exact.float())
    )
    assert torch.equal(found, right)


def test_a_constant_input_has_no_deviation_at_all():
    X = torch.full((1, 3, 50), 0.1)
    X[:, 1] = torch.randn(50, generator=torch.Generator().manual_seed(0))
    total = HessianSum()
    for part in X.split(7, 2):
        total.add(part)
    assert (total.covariance()[0, [0, 2]] == 0).all() and total.covariance()[0, 1, 1] > 0


def test_sums_around_other_values_say_the_same():
    X, Y = inputs(), inputs(seed=1)
    for pair in ((X, None), (X, Y)):
        total = HessianSum()
        total.add(*pair)
        moved = total.around(torch.full((2, 5), 3.0).double(), torch.full((2, 5), -2.0).double())
        for name in ("covariance", "mean", "input_mean", "other_mean"):
            close(getattr(moved, name)(), getattr(total, name)(), 1e-9)
