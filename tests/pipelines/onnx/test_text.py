"""A BERT in onnxruntime, on sentences of several lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.models.by_mask import ByMask
from pipelines.models.transformers import TransformersModel
from pipelines.onnx.export import export
from pipelines.onnx.integer_layers import integer_layers
from tests.pipelines.onnx.running import output


@pytest.mark.slow
def test_a_bert_computes_the_same_for_sentences_of_all_lengths(quantize, tiny_bert, tmp_path):
    model = TransformersModel(None, str(tiny_bert), 12).load(None).module
    ids = torch.randint(5, 11, (4, 8), generator=torch.Generator().manual_seed(0))
    ids[2, 6:] = ids[3, 3:] = model.pad
    state = quantize(model, ids, 8, 8)
    lengths = {0: "batch", 1: "length"}
    path = export(ByMask(model), state, ids, tmp_path / "net.onnx", dynamic=lengths).path
    with torch.no_grad():
        expected = state.applied_to(model)(ids).numpy()
    scale = np.abs(expected).max()
    assert np.abs(output(path, ids) - expected).max() <= 0.01 * scale
    assert np.abs(output(path, ids[3:, :3]) - expected[3:]).max() <= 0.01 * scale
    layers = integer_layers(path)
    assert layers.total == len(state.weights) == 14
    assert sum(layers.integer.values()) + len(layers.floats) == layers.total
    assert layers.integer["MatMulIntegerToFloat"] == 12
