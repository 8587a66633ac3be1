"""Quantized networks to export."""

from __future__ import annotations

import pytest
import torch

from quant import grid as grids
from quant import layers, ranges
from quant.activations import observing
from quant.layers import to_matrix
from quant.placement import PLACEMENTS
from quant.quantized import QuantizedState, QuantizedWeight


def quantized(
    model,
    example,
    bits=8,
    act_bits=8,
    granularity="channel",
    symmetric=False,
    placement="inputs",
    group_size=16,
):
    """The state of a network rounded to nearest; act_bits=None: activations stay in float."""
    found, _ = layers.find(model, example)
    weights = {}
    for name, layer in found.items():
        W = to_matrix(model.get_parameter(layer.weight).detach(), layer.groups)
        grid = grids.fit(
            W, bits, granularity=granularity, symmetric=symmetric, search="minmax",
            group_size=group_size,
        )  # fmt: skip
        weights[name] = QuantizedWeight.of(layer, grid.codes(W), grid)
    places, act_grids = {}, {}
    if act_bits is not None:
        places = PLACEMENTS[placement](model, found, example).places
        with torch.no_grad(), observing(model, places) as histograms:
            model(example)
        act_grids = {
            name: ranges.fit(each, act_bits, symmetric=False, search="minmax", percentile=99.9)
            for name, each in histograms.items()
        }
    return QuantizedState.of(model, weights, places, act_grids)


@pytest.fixture
def quantize():
    return quantized
