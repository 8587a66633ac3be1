"""ResNet-20 in onnxruntime."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from pipelines.models.cifar_resnet import CifarResNet
from pipelines.models.state_dict import load_into, read
from pipelines.onnx.export import export
from pipelines.onnx.integer_layers import integer_layers
from tests.pipelines.onnx.running import output


@pytest.fixture(scope="module")
def resnet(data_root):
    """The float network, and 32 images of CIFAR-10."""
    model = CifarResNet(n=3, classes=10)
    path = data_root / "weights" / "cifar10_resnet20.safetensors"
    load_into(model, read(path), str(path))
    with np.load(data_root / "cifar10_calib2000.npz") as arrays:
        jpeg, offset = arrays["jpeg"], arrays["offset"]
    files = [jpeg[offset[i] : offset[i + 1]].tobytes() for i in range(32)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return model.float().eval(), torch.tensor(images).permute(0, 3, 1, 2).float() / 64 - 2


@pytest.mark.parametrize("symmetric", [True, False])
def test_resnet20_computes_the_same_and_with_integers_only(quantize, resnet, tmp_path, symmetric):
    model, x = resnet
    state = quantize(model, x, symmetric=symmetric, placement="outputs")
    exported = export(model, state, x, tmp_path / "net.onnx", fold=True)
    with torch.no_grad():
        expected = state.applied_to(model)(x).numpy()
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for found in (output(exported.path, x, level), output(exported.path, x)):
        difference = np.abs(found - expected)
        assert difference.mean() <= 0.03 * np.abs(expected).mean()
        assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.96
    layers = integer_layers(exported.path)
    assert layers.total == 20 and layers.floats == ()
    assert layers.integer == {"QGemm": 1, "QLinearConv": 19}
    assert exported.bytes < 1.2 * sum(weight.codes.numel() for weight in state.weights.values())
