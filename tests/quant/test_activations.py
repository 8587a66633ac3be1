"""Quantized inputs: what meets the weights lies on the grid, and nothing else has changed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant.activations import Place, input_place, observing, with_quantizers
from quant.calls import Calls
from quant.layers import find
from quant.ranges import fit


class SamePad(nn.Conv2d):
    """Pads by itself, as TensorFlow does."""

    def forward(self, x):
        return self._conv_forward(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = SamePad(3, 8, 3, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.depthwise(x) + x  # the sum stays in floating point
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model():
    return Model().eval()


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def input_places(model):
    return {name: input_place(layer) for name, layer in find(model, IMAGES[:2])[0].items()}


def grids_of(model, places, bits):
    with torch.no_grad(), observing(model, places) as seen:
        for part in IMAGES.split(4):
            model(part)
    return {
        n: fit(h, bits, symmetric=False, search="minmax", percentile=100) for n, h in seen.items()
    }


def test_what_meets_a_weight_lies_on_its_grid_and_the_rest_is_as_it_was(model):
    layers, _ = find(model, IMAGES[:2])
    before = copy.deepcopy(model.state_dict())
    grids = grids_of(model, input_places(model), 3)
    quantized = with_quantizers(model, input_places(model), grids)
    met = {}
    weights = {n: quantized.get_parameter(x.weight) for n, x in layers.items()}
    with torch.no_grad(), Calls(weights, lambda name, _, call: met.update({name: call.x})):
        output = quantized(IMAGES)
    for name, x in met.items():
        assert 4 < len(x.unique()) <= 8, name
        assert torch.equal(grids[name].round(x), x)
    with torch.no_grad():
        x = model.stem(grids["stem"].round(IMAGES)).relu()
        x = model.depthwise(grids["depthwise"].round(x)) + x
        expected = model.head(grids["head"].round(x.mean((2, 3))))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    state = quantized.state_dict()
    assert all(torch.equal(state[k], v) for k, v in before.items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_only_named_layers_are_quantized_and_copies_go_on_working(model):
    grids = grids_of(model, input_places(model), 2)
    some = with_quantizers(model, {"head": Place("head")}, grids)
    twin = copy.deepcopy(some)
    twin.head.input_quantizer.scale.mul_(2)
    with torch.no_grad():
        assert not torch.equal(some(IMAGES), model(IMAGES))
        assert not torch.equal(some(IMAGES), twin(IMAGES))
        features = F.relu(model.stem(IMAGES))
        features = (model.depthwise(features) + features).mean((2, 3))
        torch.testing.assert_close(some(IMAGES), model.head(grids["head"].round(features)))


def test_many_bits_change_next_to_nothing(model):
    fine = with_quantizers(model, input_places(model), grids_of(model, input_places(model), 16))
    with torch.no_grad():
        torch.testing.assert_close(fine(IMAGES), model(IMAGES), rtol=0, atol=1e-3)


def test_behind_a_module_all_that_take_its_output_take_numbers_of_the_grid(model):
    places = {"stem": Place("stem", behind=True)}
    grids = grids_of(model, places, 3)
    quantized = with_quantizers(model, places, grids)
    with torch.no_grad():
        x = grids["stem"].round(model.stem(IMAGES)).relu()
        expected = model.head((model.depthwise(x) + x).mean((2, 3)))
        assert torch.equal(quantized(IMAGES), expected)
        assert not torch.equal(model(IMAGES), expected)
    assert quantized.stem.output_quantizer.bits == 3
    assert not any(m._forward_hooks for m in model.modules())
