"""Soft rounding: where it starts, what it can become, and that it ends on the grid."""

from __future__ import annotations

import pytest
import torch

from quant.grid import Grid, fit
from quant.rounding import SoftRounding, beta_at, logit, undecided


@pytest.fixture
def weights():
    return torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def started(weights, grid, codes, confidence=0.5):
    return SoftRounding(weights, codes, grid, (10, 7), confidence)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.9])
def test_it_starts_at_the_given_codes_whatever_they_are(weights, bits, confidence):
    grid = fit(weights, bits, granularity="row", symmetric=False, search="mse")
    any_codes = torch.randint(0, 2**bits, weights.shape, generator=torch.Generator().manual_seed(1))
    for codes in (grid.codes(weights), any_codes.double()):
        rounding = started(weights, grid, codes, confidence)
        assert torch.equal(rounding.codes(), codes)


def test_from_nearest_codes_the_soft_weight_is_the_weight_itself_where_the_grid_reaches(weights):
    grid = fit(weights, 4, granularity="row", symmetric=False, search="minmax")
    rounding = started(weights, grid, grid.codes(weights), 0.0)
    soft = rounding(torch.empty(0)).reshape(weights.shape)
    ends = [grid.decode(torch.full_like(weights, code)) for code in (0.0, 15.0)]
    wanted = torch.clamp(weights, *ends)
    torch.testing.assert_close(soft, wanted, rtol=0, atol=0.002 * float(grid.scale.max()))


def test_every_weight_has_two_neighbouring_codes_of_the_grid(weights):
    grid = fit(weights, 2, granularity="row", symmetric=False, search="mse")
    rounding = started(weights, grid, grid.codes(weights))
    with torch.no_grad():
        rounding.a.fill_(10.0)
        upper = rounding.codes()
        rounding.a.fill_(-10.0)
        lower = rounding.codes()
    assert torch.equal(upper - lower, torch.ones_like(weights))
    assert lower.min() >= 0 and upper.max() <= 3


def test_the_decided_weight_lies_on_the_grid_with_the_trained_step_sizes(weights):
    grid = fit(weights, 3, granularity="row", symmetric=False, search="mse")
    rounding = started(weights, grid, grid.codes(weights))
    with torch.no_grad():
        rounding.a.normal_(generator=torch.Generator().manual_seed(2))
        rounding.log_scale += 0.3
    rounding.hard = True
    decided = rounding(torch.empty(0)).reshape(weights.shape)
    wanted = Grid(grid.scale * torch.tensor(0.3).exp(), grid.zero, 3).decode(rounding.codes())
    torch.testing.assert_close(decided, wanted)


def test_step_sizes_of_neighbouring_columns_are_kept():
    weights = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    grid = fit(weights, 4, granularity="columns", symmetric=False, search="minmax", width=4)
    rounding = SoftRounding(weights, grid.codes(weights), grid, (3, 8), 0.5)
    rounding.hard = True
    torch.testing.assert_close(rounding(weights).reshape(weights.shape), grid.round(weights))


def test_logit_undoes_the_stretched_sigmoid():
    h = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    again = (1.2 * torch.sigmoid(logit(h)) - 0.1).clamp(0, 1)
    torch.testing.assert_close(again, h, rtol=0, atol=1e-12)


def test_the_regulariser_vanishes_only_where_all_is_decided():
    assert float(undecided(torch.tensor([0.0, 1.0]), 2)) == 0
    assert float(undecided(torch.tensor([0.5, 0.25]), 2)) == pytest.approx(1 + 0.75)


def test_the_exponent_waits_and_then_falls_evenly():
    assert [beta_at(p, 20, 2, 0.2) for p in (0, 0.2, 0.6, 1)] == pytest.approx([20, 20, 11, 2])
