"""Soft rounding: where it starts, what it can become, and that it ends on the grid."""

from __future__ import annotations

import pytest
import torch

from quant.grid import Grid, fit
from quant.rounding import (
    KINDS,
    SoftRounding,
    StraightThroughRounding,
    beta_at,
    logit,
    rounding_regulariser,
)


@pytest.fixture
def weights():
    return torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def started(weights, grid, codes, confidence=0.5):
    return SoftRounding(weights, codes, grid, (10, 7), confidence)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.9])
def test_it_starts_at_the_given_codes_whatever_they_are(weights, kind, bits, confidence):
    grid = fit(weights, bits, granularity="channel", symmetric=False, search="mse")
    any_codes = torch.randint(0, 2**bits, weights.shape, generator=torch.Generator().manual_seed(1))
    for codes in (grid.codes(weights), any_codes.double()):
        rounding = KINDS[kind](weights, codes, grid, (10, 7), confidence)
        assert torch.equal(rounding.codes(), codes)
        if kind == "straight":
            away = (rounding.a - codes).detach().abs().max()
            assert float(away) <= (1 - confidence) / 2 + 1e-9


def test_from_nearest_codes_the_soft_weight_is_the_weight_itself_where_the_grid_reaches(weights):
    grid = fit(weights, 4, granularity="channel", symmetric=False, search="minmax")
    rounding = started(weights, grid, grid.codes(weights), 0.0)
    soft = rounding(torch.empty(0)).reshape(weights.shape)
    ends = [grid.decode(torch.full_like(weights, code)) for code in (0.0, 15.0)]
    wanted = torch.clamp(weights, *ends)
    torch.testing.assert_close(soft, wanted, rtol=0, atol=0.002 * float(grid.scale.max()))


def test_every_weight_has_two_neighbouring_codes_of_the_grid(weights):
    grid = fit(weights, 2, granularity="channel", symmetric=False, search="mse")
    rounding = started(weights, grid, grid.codes(weights))
    with torch.no_grad():
        rounding.a.fill_(10.0)
        upper = rounding.codes()
        rounding.a.fill_(-10.0)
        lower = rounding.codes()
    assert torch.equal(upper - lower, torch.ones_like(weights))
    assert lower.min() >= 0 and upper.max() <= 3


def test_the_decided_weight_lies_on_the_grid_with_the_trained_step_sizes(weights):
    grid = fit(weights, 3, granularity="channel", symmetric=False, search="mse")
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
    grid = fit(weights, 4, granularity="group", symmetric=False, search="minmax", group_size=4)
    rounding = SoftRounding(weights, grid.codes(weights), grid, (3, 8), 0.5)
    rounding.hard = True
    torch.testing.assert_close(rounding(weights).reshape(weights.shape), grid.round(weights))


def test_logit_undoes_the_stretched_sigmoid():
    h = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    again = (1.2 * torch.sigmoid(logit(h)) - 0.1).clamp(0, 1)
    torch.testing.assert_close(again, h, rtol=0, atol=1e-12)


def test_the_regulariser_vanishes_only_where_all_is_decided():
    assert float(rounding_regulariser(torch.tensor([0.0, 1.0]), 2)) == 0
    assert float(rounding_regulariser(torch.tensor([0.5, 0.25]), 2)) == pytest.approx(1 + 0.75)


def test_the_exponent_waits_and_then_falls_evenly():
    assert [beta_at(p, 20, 2, 0.2) for p in (0, 0.2, 0.6, 1)] == pytest.approx([20, 20, 11, 2])


def test_straight_rounding_trains_with_what_is_decided_and_passes_gradients(weights):
    grid = fit(weights, 3, granularity="channel", symmetric=False, search="mse")
    rounding = StraightThroughRounding(weights, grid.codes(weights), grid, (10, 7), 0.0)
    W = rounding(torch.empty(0))
    torch.testing.assert_close(W.reshape(weights.shape), grid.round(weights))
    factors = torch.linspace(-1, 1, W.numel(), dtype=torch.float64).reshape(W.shape)
    (W * factors).sum().backward()
    wanted = (factors.reshape(weights.shape) * grid.scale).where(
        (rounding.a >= 0) & (rounding.a <= 7), torch.tensor(0.0).double()
    )
    torch.testing.assert_close(rounding.a.grad, wanted)
    with torch.no_grad():
        rounding.a += 100
    assert (rounding.codes() == 7).all() and rounding.regulariser(2.0) is None


@pytest.mark.parametrize(
    "name",
    [
        "cifar10_resnet20",
        "cifar10_resnet56",
        "mobilenet_v1",
        "mobilenet_v2",
        "yolov5n",
        "yolov5s",
        "yolov8n",
        "espnetv2",
        "deeplabv3_mobilenet_v2",
    ],
)
def test_wherever_training_goes_every_weight_of_every_network_ends_on_its_grid(name, real_network):
    network = real_network(name)
    generator = torch.Generator().manual_seed(0)
    matrices = [p.detach() for p in network.module.parameters() if p.dim() in (2, 4)]
    assert len(matrices) > 15
    for number, weight in enumerate(matrices):
        matrix, bits = weight.reshape(1, len(weight), -1), (2, 3, 4, 8)[number % 4]
        grid = fit(matrix, bits, granularity="channel", symmetric=False, search="minmax")
        for kind in KINDS.values():
            rounding = kind(matrix, grid.codes(matrix), grid, weight.shape, 0.2)
            with torch.no_grad():
                noise = torch.randn(rounding.a.shape, generator=generator)
                rounding.a += noise
                rounding.log_scale += 0.1 * torch.randn(grid.scale.shape, generator=generator)
            codes = rounding.codes()
            assert torch.equal(codes, codes.round())
            assert codes.min() >= 0 and codes.max() < 2**bits
            rounding.hard = True
            found = rounding(weight).detach().reshape(matrix.shape)
            assert torch.equal(found, rounding.grid().decode(codes).detach())
            assert torch.equal(rounding.grid().codes(found).detach(), codes)
