"""ResNets for 32x32 images: He et al., Deep Residual Learning, CVPR 2016, section 4.2."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1(x)))))), with a parameter-free shortcut (option A).

    Where the shape changes, the shortcut takes every `stride`-th pixel and pads the channels with
    zeros, half of them before and half after.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.stride = stride
        self.pad = (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[b, c_in, h, w] -> [b, c_out, h / stride, w / stride]."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        out: Tensor = self.relu2(nn.functional.pad(shortcut, (0, 0, 0, 0, self.pad, self.pad)) + y)
        return out


class CifarResNet(nn.Module):
    """ResNet-(6n + 2): n = 3 is ResNet-20, n = 9 is ResNet-56.

    Key names as in https://github.com/akamaster/pytorch_resnet_cifar10.
    """

    def __init__(self, n: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(n, 16, 16, stride=1)
        self.layer2 = _stage(n, 16, 32, stride=2)
        self.layer3 = _stage(n, 32, 64, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, 32, 32], normalized -> logits [b, classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(n: int, c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Block(c_in, c_out, stride), *(Block(c_out, c_out, 1) for _ in range(n - 1))
    )
