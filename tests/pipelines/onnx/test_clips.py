"""Clips before quantizers go where they change no code, and only there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from pipelines.onnx.export import export
from quant.ranges import TensorGrid
from tests.pipelines.onnx.running import output


class Clipped(nn.Module):
    """Two convolutions with ReLU6 in between."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.act = nn.ReLU6()

    def forward(self, x):
        return self.two(self.act(self.one(x)))


@pytest.mark.parametrize(("top", "zero", "clips"), [(6, 0, 0), (3, 0, 0), (7, 0, 1), (6, 30, 1)])
def test_a_clip_goes_where_it_changes_no_code(quantize, tmp_path, top, zero, clips):
    torch.manual_seed(0)
    model, x = Clipped().eval(), 9 * torch.randn(4, 3, 6, 6)
    state = quantize(model, x, symmetric=True)
    state.grids["two"] = TensorGrid(torch.tensor(top / (255 - zero)), torch.tensor(float(zero)), 8)
    path = export(model, state, x, tmp_path / "net.onnx", fold=True).path
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Clip") == clips
    with torch.no_grad():
        expected = state.applied_to(model)(x).numpy()
    found = output(path, x, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
