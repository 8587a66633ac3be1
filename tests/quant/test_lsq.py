"""Trained quantizers of activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quant.activations import FakeQuantize, Place, observing, with_quantizers
from quant.lsq import LearnedQuantize, make_learnable
from quant.ranges import TensorGrid, fit


def quantizer(bits=3, scale=0.3, zero=2.0, dtype=torch.float64):
    grid = TensorGrid(torch.tensor(scale), torch.tensor(zero), bits)
    return LearnedQuantize(FakeQuantize(grid)).to(dtype)


def values(n=200):
    x = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.requires_grad_()


def straight_through(x, log_scale, zero, top, keep):
    """The same in plain autograd."""
    scale = log_scale.exp()
    u = x / scale + zero
    clipped = u.clamp(0, top)
    code = clipped + (clipped.round() - clipped).detach()
    return keep * x + (1 - keep) * (code - zero) * scale


@pytest.mark.parametrize("keep", [0.0, 0.3])
def test_outputs_and_gradients_are_those_of_the_straight_through_estimator(keep):
    module, x, y = quantizer(), values(), values()
    module.keep = keep
    weights = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    log_scale = module.log_scale.detach().clone().requires_grad_()
    (weights * module(x)).sum().backward()
    (weights * straight_through(y, log_scale, module.zero, 7, keep)).sum().backward()
    torch.testing.assert_close(module(x), straight_through(x, log_scale, module.zero, 7, keep))
    inside = ((x / module.log_scale.exp() + module.zero) % 1 - 0.5).abs() > 1e-6
    edge = ((y / log_scale.exp() + module.zero) > -0.5) & ((y / log_scale.exp() + 2) < 7.5)
    plain = ((y / log_scale.exp() + 2) >= 0) & ((y / log_scale.exp() + 2) <= 7)
    same = inside & (edge == plain)  # values that round to the ends are inside here
    torch.testing.assert_close(x.grad[same], y.grad[same])
    torch.testing.assert_close(module.log_scale.grad, wanted_scale(y, module, weights, keep))


def wanted_scale(x, module, weights, keep):
    """LSQ, equation 3: code - x / s inside, the code itself outside; times s for log s."""
    s, z = module.log_scale.detach().exp(), module.zero
    u = x.detach() / s
    code = u.round().clamp(-z, 7 - z)
    inside = (u.round() >= -z) & (u.round() <= 7 - z)
    return ((1 - keep) * weights * torch.where(inside, code - u, code)).sum() * s


def test_at_the_start_of_the_schedule_it_does_nothing_and_at_its_end_everything():
    module, x = quantizer(), values().detach()
    module.keep = 1.0
    assert torch.equal(module(x), x)
    module.keep = 0.0
    plain = FakeQuantize(TensorGrid(torch.tensor(0.3), torch.tensor(2.0), 3)).double()
    torch.testing.assert_close(module(x), plain(x), rtol=0, atol=1e-6)


def test_dropping_keeps_about_the_wanted_share_and_repeats_with_its_seed():
    module, x = quantizer(), values(20_000).detach()
    module.keep, module.drop, module.seed = 0.4, True, 7
    first = module(x)
    kept = float((first == x).double().mean())
    assert 0.38 < kept < 0.42
    assert torch.equal(module(x), first)
    module.seed = 8
    assert not torch.equal(module(x), first)


def test_a_network_gets_trained_quantizers_in_place_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    places = {"0": Place("0"), "1": Place("1", behind=True), "2": Place("2", behind=True)}
    with torch.no_grad(), observing(model, places) as seen:
        model(images)
    grids = {
        n: fit(h, 4, symmetric=False, search="minmax", percentile=100) for n, h in seen.items()
    }
    quantized = with_quantizers(model, places, grids)
    with torch.no_grad():
        before = quantized(images)
        found = make_learnable(quantized)
        assert list(found) == list(places.values())
        assert quantized[0].input_quantizer is found[places["0"]]
        assert quantized[2].output_quantizer is found[places["2"]]
        torch.testing.assert_close(quantized(images), before)
        for name, place in places.items():
            torch.testing.assert_close(found[place].grid().scale, grids[name].scale.float())


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_gradients_of_dropped_values_are_those_of_the_identity(keep):
    module, x, y = quantizer(), values(), values()
    module.keep, module.drop, module.seed = keep, True, 3
    weights = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    log_scale = module.log_scale.detach().clone().requires_grad_()
    out = module(x)
    kept = (out.detach() == x.detach()).double()
    assert kept.any() == (keep > 0)
    (weights * out).sum().backward()
    (weights * straight_through(y, log_scale, module.zero, 7, kept)).sum().backward()
    u = y.detach() / log_scale.detach().exp() + module.zero
    same = ((u >= -0.5) == (u >= 0)) & ((u <= 7.5) == (u <= 7))  # see above
    torch.testing.assert_close(x.grad[same], y.grad[same])
    torch.testing.assert_close(module.log_scale.grad, wanted_scale(y, module, weights, kept))
