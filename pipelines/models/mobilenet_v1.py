"""MobileNetV1: Howard et al., MobileNets, arXiv:1704.04861, table 1."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

BLOCKS = (  # output channels at alpha = 1, stride of the depthwise convolution
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)


class MobileNetV1(nn.Module):
    """Width multiplier `alpha`, TensorFlow's "same" padding, BatchNorm eps 1e-3, ReLU6.

    For inputs of even height and width, "same" padding of a strided 3x3 convolution adds one row
    below and one column on the right. Height and width must therefore be multiples of 32.
    """

    def __init__(self, alpha: float, classes: int) -> None:
        super().__init__()
        c = int(32 * alpha)
        stem = {"pad": _pad(2), "conv": _conv(3, c, 3, 2), "bn": _bn(c), "act": nn.ReLU6()}
        self.stem = nn.Sequential(OrderedDict(stem))
        blocks = []
        for width, stride in BLOCKS:
            c_in, c = c, int(width * alpha)
            blocks.append(_separable(c_in, c, stride))
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, 224, 224] in [-1, 1] -> logits [b, classes]."""
        logits: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


def _separable(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """A depthwise 3x3 convolution, then a pointwise one."""
    parts = {
        "pad": _pad(stride),
        "dw": _conv(c_in, c_in, 3, stride, groups=c_in),
        "dw_bn": _bn(c_in),
        "dw_act": nn.ReLU6(),
        "pw": _conv(c_in, c_out, 1, 1),
        "pw_bn": _bn(c_out),
        "pw_act": nn.ReLU6(),
    }
    return nn.Sequential(OrderedDict(parts))


def _pad(stride: int) -> nn.Module:
    return nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()


def _conv(c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    padding = 1 if kernel == 3 and stride == 1 else 0  # strided convolutions follow a _pad
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)


def _bn(c: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(c, eps=1e-3)
