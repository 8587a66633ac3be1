"""BatchNorm in the step sizes of a convolution, on the same codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pipelines.onnx.export import export
from pipelines.onnx.folding import REVERSED
from pipelines.onnx.integer_layers import integer_layers
from quant.quantized import QuantizedWeight
from tests.pipelines.onnx.networks import ConvNormRelu, network
from tests.pipelines.onnx.running import output

PLAIN = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def codes(path, name):
    (tensor,) = [t for t in onnx.load(path).graph.initializer if t.name == name]
    return numpy_helper.to_array(tensor).astype(int)


@pytest.mark.parametrize(
    ("bits", "more"),
    [(8, {}), (8, {"symmetric": True}), (4, {"granularity": "group"}), (3, {"symmetric": True}),
     (5, {"granularity": "tensor"}), (2, {})],
)  # fmt: skip
def test_folding_keeps_the_outputs_and_the_codes_but_for_reversed_rows(
    quantize, tmp_path, bits, more
):
    model, x = network(ConvNormRelu)
    gamma = model.norm.weight.detach()
    assert (gamma < 0).any() and (gamma > 0).any()
    gamma[3] = 0
    state = quantize(model, x, bits, None, **more)
    exported = export(model, state, x, tmp_path / "net.onnx", fold=True)
    assert exported.norms == {} and exported.float_weights == {}
    operators = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert "BatchNormalization" not in operators
    with torch.no_grad():
        expected = state.applied_to(model)(x).numpy()
    assert np.abs(output(exported.path, x, PLAIN) - expected).max() <= 1e-5 * np.abs(expected).max()
    found = codes(exported.path, "first.weight").reshape(8, -1)
    own = state.weights["first"].codes.reshape(8, -1).int().numpy()
    shift = own[gamma > 0] - found[gamma > 0]
    assert len(np.unique(shift)) == 1, "the codes, signed or not"


def test_a_norm_stays_where_a_code_has_no_negative(quantize, tmp_path):
    model, x = network(ConvNormRelu)
    state = quantize(model, x, 8, None, symmetric=True)
    first = state.weights["first"]
    codes = first.codes
    codes[:, int((model.norm.weight < 0).nonzero()[0]), 0] = 0  # -128
    weights = {**state.weights, "first": QuantizedWeight.of(first.layer, codes, first.grid)}
    state = replace(state, weights=weights)
    exported = export(model, state, x, tmp_path / "net.onnx", fold=True)
    assert exported.norms == {"first": REVERSED}
    with torch.no_grad():
        expected = state.applied_to(model)(x).numpy()
    assert np.abs(output(exported.path, x, PLAIN) - expected).max() <= 1e-5 * np.abs(expected).max()


class Shared(nn.Module):
    """One convolution before two BatchNorms: neither can be folded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.cat([self.one(self.conv(x)), self.two(self.conv(x.flip(1)))], 1)


def test_a_weight_of_two_uses_is_not_folded(quantize, tmp_path):
    model, x = Shared().eval(), network(ConvNormRelu)[1]
    model.two.running_mean.fill_(3)
    state = quantize(model, x, 8, None)
    exported = export(model, state, x, tmp_path / "net.onnx", fold=True)
    with torch.no_grad():
        expected = state.applied_to(model)(x).numpy()
    assert np.abs(output(exported.path, x, PLAIN) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_folded_files_run_as_integers(quantize, tmp_path):
    model, x = network(ConvNormRelu)
    state = quantize(model, x, placement="outputs")
    plain = export(model, state, x, tmp_path / "plain.onnx").path
    path = export(model, state, x, tmp_path / "net.onnx", fold=True).path
    before, after = integer_layers(plain), integer_layers(path)
    assert before.total == after.total == 5
    assert {"first.weight", "last.weight"} <= set(before.floats)
    assert after.integer["QLinearConv"] >= 3 and sum(after.integer.values()) > sum(
        before.integer.values()
    )
    assert sum(after.integer.values()) + len(after.floats) == after.total
    with torch.no_grad():
        expected = state.applied_to(model)(x).numpy()
    assert np.abs(output(path, x) - expected).max() <= 0.02 * np.abs(expected).max()
