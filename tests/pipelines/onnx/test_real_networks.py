"""Real networks in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from pipelines.models.cifar_resnet import CifarResNet
from pipelines.models.state_dict import load_state_dict
from pipelines.onnx.export import export
from tests.pipelines.onnx.running import output


@pytest.fixture
def resnet(data_root):
    """ResNet-20 and 32 images of CIFAR-10."""
    model = CifarResNet(n=3, classes=10).eval()
    load_state_dict(model, data_root / "weights" / "cifar10_resnet20.safetensors")
    return model, images(data_root)
