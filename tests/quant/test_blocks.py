"""Where gradients stop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quant.blocks import blocks_of, stop_gradients
from quant.layers import find


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.second(self.first(x).relu())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(Residual(), Residual()), nn.Linear(4, 2))


def test_blocks_are_the_smallest_modules_with_two_layers(model):
    layers, _ = find(model, torch.randn(2, 4))
    assert blocks_of(model, layers) == {
        "1.0.first": "1.0",
        "1.0.second": "1.0",
        "1.1.first": "1.1",
        "1.1.second": "1.1",
    }


def test_lists_of_modules_are_no_blocks():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x):
            return self.parts[1](self.parts[0](x))

    model = Listed()
    layers, _ = find(model, torch.randn(2, 4))
    assert blocks_of(model, layers) == {}


def test_no_gradient_leaves_a_block_through_its_input(model):
    stop_gradients(model, ["1.1"])
    model(torch.randn(3, 4)).sum().backward()
    assert model[1][0].first.weight.grad is None and model[0].weight.grad is None
    assert model[1][1].first.weight.grad.abs().sum() > 0
