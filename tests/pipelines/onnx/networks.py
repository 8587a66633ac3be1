"""Small networks, each with something that an exporter has to get right."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNormRelu(nn.Module):
    """A convolution with BatchNorm, one depthwise and one grouped, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, bias=False)
        self.pointwise, self.last = nn.Conv2d(8, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, 5]."""
        x = torch.relu(self.norm(self.first(x)))
        x = self.pointwise(self.grouped(x + self.depthwise(x)))
        y: Tensor = self.last(x.mean((2, 3)))
        return y


class Sequences(nn.Module):
    """Linear layers on [b, n, 20], two of which share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 24), nn.Linear(24, 24)
        self.tied = nn.Linear(24, 24, bias=False)
        self.tied.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        """[b, n, 20] -> [b, n, 24]."""
        y: Tensor = self.tied(torch.relu(self.second(torch.relu(self.first(x)))))
        return y


SHAPES = {ConvNormRelu: (6, 3, 8, 8), Sequences: (6, 5, 20)}


def network(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """A random network in eval mode, its BatchNorm with factors of both signs, and its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind().eval()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                part.weight.data.normal_()
                part.bias.data.normal_()
        return model, torch.randn(SHAPES[kind])
