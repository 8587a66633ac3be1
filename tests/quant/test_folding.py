"""A network without its BatchNorms gives the same outputs."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from quant.folding import folded
from quant.layers import find
from quant.statistics import BatchNorm

REAL = {
    "cifar10_resnet20": 19,
    "cifar10_resnet56": 55,
    "mobilenet_v1": 27,
    "mobilenet_v2": 52,
    "yolov5n": 57,
    "yolov5s": 57,
    "yolov8n": 57,
    "espnetv2": None,
    "deeplabv3_mobilenet_v2": 51,
}


class Small(nn.Module):
    """A BatchNorm behind a convolution with and without bias, one that is shared, one with ReLU."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 6, 3, bias=False)
        self.norm_a = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 6, 3, groups=2)
        self.norm_b = BatchNormAct2d(6)
        self.c = nn.Conv2d(6, 6, 1)
        self.d = nn.Conv2d(6, 6, 1)
        self.shared = nn.BatchNorm2d(6, affine=False)
        self.head = nn.Linear(6, 4)
        self.norm_head = nn.BatchNorm1d(4)
        for norm in self.modules():
            if isinstance(norm, BatchNorm):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.1, 3)
                if norm.affine:
                    nn.init.normal_(norm.weight)  # negative ones too
                    nn.init.normal_(norm.bias)

    def forward(self, x):
        x = self.norm_b(self.b(self.norm_a(self.a(x))))
        x = self.shared(self.c(x)) + self.shared(self.d(x))
        return self.norm_head(self.head(x.mean((2, 3))))


def test_a_folded_network_gives_the_same_outputs_in_float64():
    model = Small().double().eval()
    images = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    layers, _ = find(model, images)
    changed = folded(model, layers)
    left = [name for name, m in changed.named_modules() if isinstance(m, BatchNorm)]
    assert left == ["shared"]  # it has no layer of its own
    with torch.no_grad():
        torch.testing.assert_close(changed(images), model(images), rtol=1e-9, atol=1e-9)
    assert not isinstance(model.norm_a, nn.Identity)  # the model itself is as it was


@pytest.mark.parametrize("name", REAL)
def test_every_real_network_folds_to_within_1e_5(name, real_network):
    network = real_network(name)
    size = min(network.data_config["input_size"][1], 96)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    layers, _ = find(network.module, images)
    changed = folded(network.module, layers)

    def norms(module):
        return sum(isinstance(m, BatchNorm) for m in module.modules())

    merged = norms(network.module) - norms(changed)
    assert merged == sum(bool(layer.norm) for layer in layers.values())
    assert REAL[name] is None or merged == REAL[name]
    with torch.no_grad():
        before, after = network.module(images), changed(images)
    pairs = (
        [(before, after)] if isinstance(before, torch.Tensor) else zip(before, after, strict=True)
    )
    for a, b in pairs:
        assert float((a - b).abs().max() / a.abs().max()) < 1e-5
