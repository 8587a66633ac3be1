"""What layers do on one image: counted by hand, and against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from quant.costs.geometry import LayerGeometry
from quant.costs.workload import Workload, workloads
from quant.layers import find


class Small(nn.Module):
    """A padded, strided, grouped convolution, a layer used twice, tokens, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), groups=1)
        self.depthwise = nn.Conv2d(8, 8, 3, dilation=2, padding="same", groups=8)
        self.tokens = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        x = self.depthwise(self.depthwise(x))
        return self.head(self.tokens(x.flatten(2).mT).mean(1))


def measured(model, example):
    model.eval()
    layers, _ = find(model, example)
    return workloads(model, example, layers)


def test_positions_inputs_outputs_and_macs_are_those_counted_by_hand():
    torch.manual_seed(0)
    found = measured(Small(), torch.rand(3, 3, 9, 6))  # the stem's output is 5 x 6
    sizes = {n: (w.shape, w.groups, w.positions, w.inputs, w.outputs) for n, w in found.items()}
    assert sizes == {
        "stem": ((8, 3, 3, 5), 1, 30, 162, 240),
        "depthwise": ((8, 1, 3, 3), 8, 60, 480, 480),  # twice
        "tokens": ((8, 8), 1, 30, 240, 240),
        "head": ((10, 8), 1, 1, 8, 10),
    }
    macs = {name: w.macs for name, w in found.items()}
    assert macs == {"stem": 8 * 45 * 30, "depthwise": 72 * 60, "tokens": 64 * 30, "head": 80}
    assert {n: w.calls for n, w in found.items()} == {
        "stem": 1, "depthwise": 2, "tokens": 1, "head": 1,
    }  # fmt: skip


def test_a_call_is_recorded_with_the_geometry_that_its_time_depends_on():
    torch.manual_seed(0)
    found = measured(Small(), torch.rand(1, 3, 9, 6))
    assert found["stem"].geometries == (
        LayerGeometry((8, 3, 3, 5), 1, (1, 3, 9, 6), (1, 8, 5, 6), (2, 1), (1, 2, 1, 2), (1, 1)),
    )
    same = LayerGeometry((8, 1, 3, 3), 8, (1, 8, 5, 6), (1, 8, 5, 6), (1, 1), (2, 2, 2, 2), (2, 2))
    assert found["depthwise"].geometries == (same, same)
    assert found["tokens"].geometries == (LayerGeometry((8, 8), 1, (30, 8), (30, 8)),)
    keys = {geometry.key for w in found.values() for geometry in w.geometries}
    assert len(keys) == 4
    assert same.key == "8x1x3x3 g8 on 1x8x5x6 stride 1x1 padding 2x2x2x2 dilation 2x2"


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("kernel", [2, (4, 3)])
def test_same_padding_puts_the_odd_row_below(kernel):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, kernel, padding="same").eval()
    x = torch.rand(1, 2, 7, 6)
    (geometry,) = measured(nn.Sequential(conv), x)["0"].geometries
    top, left, bottom, right = geometry.padding
    padded = nn.functional.pad(x, (left, right, top, bottom))
    by_hand = nn.functional.conv2d(padded, conv.weight, conv.bias)
    torch.testing.assert_close(by_hand, conv(x), rtol=0, atol=1e-6)
    assert geometry.output == tuple(by_hand.shape)


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [("cifar10_resnet20", 32, 20), ("mobilenet_v1", 224, 28), ("yolov5n", 640, 60)],
)
def test_macs_of_real_networks_are_half_of_what_torch_counts(real_network, name, size, layers):
    module = real_network(name).module
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = measured(module, x)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(x)
    assert len(found) == layers
    assert 2 * len(x) * sum(w.macs for w in found.values()) == counter.get_total_flops()


def test_a_layer_that_the_network_does_not_use_is_named():
    model = Small().eval()
    layers, _ = find(model, torch.rand(1, 3, 9, 6))
    model.forward = lambda x: model.stem(x)
    with pytest.raises(ValueError, match=r"layer depthwise is not used .* \(3 of 4 layers\)"):
        workloads(model, torch.rand(1, 3, 9, 6), layers)
    with pytest.raises(ValueError, match="holds no image"):
        workloads(model, torch.rand(0, 3, 9, 6), layers)


def test_a_workload_of_sums_alone_has_one_call():
    assert Workload("x", (4, 2), 1, 7, 14, 28).calls == 1
