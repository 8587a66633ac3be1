"""What a network does outside of its quantized layers, against PyTorch's own counter."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from quant.costs.remainder import remainder
from quant.costs.workload import workloads
from quant.layers import find


class Mixed(nn.Module):
    """A convolution with a standardised weight, a tied layer, attention, a transposed one."""

    def __init__(self):
        super().__init__()
        self.standard = nn.Conv2d(3, 8, 3)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        w = self.standard.weight
        x = F.conv2d(x, w - w.mean((1, 2, 3), keepdim=True), self.standard.bias)
        t = self.b(self.a(x.flatten(2).mT))
        t = F.scaled_dot_product_attention(t, t, t) + torch.softmax(t @ t.mT, -1) @ t
        return self.norm(self.up(t.mT.unflatten(2, x.shape[2:])))


def test_layers_and_the_rest_are_all_that_pytorch_counts():
    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.rand(2, 3, 7, 6)
    layers, skipped = find(net, x)
    assert set(layers) == {"a"} and {s.name for s in skipped} == {"standard.weight", "up.weight"}
    rest = remainder(net, x, layers).operations
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x[:1])
    quantized = sum(w.macs for w in workloads(net, x, layers).values())
    assert quantized == 2 * 64 * 20
    assert 2 * (quantized + sum(op.macs for op in rest)) == counter.get_total_flops()
    conv, up = rest[0], rest[-1]
    assert (conv.inputs, conv.outputs, conv.macs) == (3 * 42 + 216, 8 * 20, 216 * 20)
    assert up.weights == 8 * 4 * 4 + 4 and up.outputs == 4 * 8 * 10


def test_the_rest_of_the_weights_is_all_but_the_layers_and_ties_count_once():
    net, x = Mixed().eval(), torch.rand(1, 3, 7, 6)
    layers, _ = find(net, x)
    total = sum(p.numel() for p in net.parameters())  # names tied weights once
    rest = remainder(net, x, layers)
    assert rest.stored.weights == total - 64 + 8  # running mean and variance
    assert rest.matrices == net.standard.weight.numel() + net.up.weight.numel()
