"""Two passes of networks that are random, constant, or neither."""

import torch
import torch.nn.functional as F
from torch import nn

from evaluation.digits import Digits
from evaluation.doubts import of_passes
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.float_check import IMAGES, CheckFloat
from pipelines.store.artifacts import Keyed

CONFIG = {
    "input_size": [3, 8, 8], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3,
    "crop_pct": 1.0, "crop_mode": "center",
}  # fmt: skip


class Net(nn.Module):
    """Its dropout does not know of evaluation: F.dropout without training=."""

    def __init__(self, dropout=0.0, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 64, 3), nn.Linear(64, 10)
        self.dropout, self.scale = dropout, scale

    def forward(self, x):
        return self.head(F.dropout(self.scale * self.conv(x).relu().mean((2, 3)), self.dropout))


def record(module):
    network = Network.of(module, "net", CONFIG)
    data = Digits(None, None, 500, 0, False, None)
    data.prepare(network.data_config, 40, 0, 8)
    return CheckFloat().run(network, Keyed(data, "data"), Machine("cpu", 1, "32-true", None)).record


def test_a_network_without_chance_repeats_itself():
    found = record(Net())
    assert found == {"difference": 0.0, "constant": False, "images": IMAGES}
    assert of_passes(found, "images") == []


def test_a_dropout_that_is_left_on_is_found():
    found = record(Net(dropout=0.5))
    assert found["difference"] > 0.01
    assert "different outputs for the same images" in of_passes(found, "images")[0]


def test_outputs_that_do_not_depend_on_the_image_are_found():
    assert record(Net(scale=0.0))["constant"]
