"""A quantized network as data, put into the float network again."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from quant.activations import Place, with_quantizers
from quant.grid import fit
from quant.layers import find, from_matrix, to_matrix
from quant.quantized import QuantizedState, QuantizedWeight
from quant.ranges import TensorGrid


class Tied(nn.Module):
    """Two modules hold one weight; another weight, not quantized, has two names as well."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.words, self.more = nn.Embedding(5, 6), nn.Embedding(5, 6)
        self.more.weight = self.words.weight
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        y = self.words(x[:, 0].long().clamp(0, 4)) + self.more(x[:, 1].long().clamp(0, 4))
        return self.second(self.norm(self.first(x + y).relu()))


@pytest.fixture
def quantized():
    """(float network, quantized one, its state, inputs)."""
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randn(20, 6)
    model.norm.running_mean.normal_()
    layers, _ = find(model, x)
    (layer,) = [x for x in layers.values() if x.weight.endswith("first.weight")]
    W = to_matrix(model.first.weight.detach(), 1)
    grid = fit(W, 3, granularity="group", group_size=4, symmetric=False, search="minmax")
    places = {"first": Place("first"), "norm:output": Place("norm", behind=True)}
    grids = {name: TensorGrid(torch.tensor(0.1), torch.tensor(7.0), 4) for name in places}
    best = deepcopy(model)
    with torch.no_grad():
        best.first.weight.copy_(from_matrix(grid.round(W), layer.shape))
        best.first.bias += 1  # trained
        best.norm.running_var *= 2  # corrected
    best = with_quantizers(best, places, grids)
    weights = {"first": QuantizedWeight.of(layer, grid.codes(W), grid)}
    return model, best, QuantizedState.of(best, weights, places, grids), x


def test_the_state_put_into_the_float_network_is_the_quantized_network(quantized):
    model, best, state, x = quantized
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = state.applied_to(model)
    expected, given = best.state_dict(), found.state_dict()
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], tensor) for name, tensor in expected.items())
    assert torch.equal(found(x), best(x)) and not torch.equal(found(x), model(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.second.weight is found.first.weight


def test_each_tensor_is_there_once(quantized):
    *_, state, _ = quantized
    names = {*state.rest, "first.weight"}
    assert "second.weight" not in names and len(names & {"words.weight", "more.weight"}) == 1
    assert not [name for name in names if "quantizer" in name]
    assert {"first.bias", "second.bias", "norm.running_var", "norm.num_batches_tracked"} <= names


def test_another_network_is_refused_by_name(quantized):
    *_, state, _ = quantized
    other = Tied()
    other.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"another network: extra\.weight, extra\.bias of the"):
        state.applied_to(other)
    del other.extra, other.norm
    with pytest.raises(ValueError, match=r"norm\.weight, .* and 3 more is not in the network"):
        state.applied_to(other)
    wide = Tied()
    wide.first = nn.Linear(6, 7)
    wide.second.weight = wide.first.weight
    with pytest.raises(ValueError, match=r"first\.weight is \[6, 6\] here and \[7, 6\] there"):
        state.applied_to(wide)
