"""YOLOv5 v6, anchor-based: https://github.com/ultralytics/yolov5, `models/yolov5*.yaml`.

Keys match those of the released checkpoints (`model.0.conv.weight`, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.coco_names import COCO_NAMES

STRIDES = (8, 16, 32)
ANCHORS = 3  # per cell
NONE = nn.Identity  # placeholder for Concat, so that indices match the checkpoint's keys


class Conv(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """[b, c_in, h, w] -> [b, c_out, h / stride, w / stride]."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    """3x3(1x1(x)), plus x if `shortcut`."""

    def __init__(self, c: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c), Conv(c, c, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, c, h, w]."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Two branches, one with `n` bottlenecks, concatenated and merged by a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int, n: int, shortcut: bool = True) -> None:
        super().__init__()
        half = c_out // 2
        self.cv1, self.cv2, self.cv3 = Conv(c_in, half), Conv(c_in, half), Conv(2 * half, c_out)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """[b, c_in, h, w] -> [b, c_out, h, w]."""
        y: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return y


class SPPF(nn.Module):
    """Fast spatial pyramid pooling: three 5x5 max-pools in series, all four maps concatenated."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c // 2), Conv(c * 2, c)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, c, h, w]."""
        pyramid = [self.cv1(x)]
        for _ in range(3):
            pyramid.append(self.m(pyramid[-1]))
        y: Tensor = self.cv2(torch.cat(pyramid, 1))
        return y


class Detect(nn.Module):
    """One 1x1 convolution per level: box, objectness and classes of every anchor."""

    anchors: Tensor  # [levels, anchors, 2] width and height, in units of the stride

    def __init__(self, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("anchors", torch.zeros(len(widths), ANCHORS, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, (5 + classes) * ANCHORS, 1) for c in widths)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """[b, c, h, w] -> [b, anchors * (5 + classes), h, w] for every level."""
        return [conv(x) for conv, x in zip(self.m, levels, strict=True)]


class YOLOv5(nn.Module):
    """Detector for letterboxed images, RGB / 255.

    n: width 0.25, depth 0.33; s: width 0.5, depth 0.33; m: width 0.75, depth 0.67. Of 80 classes,
    those of the released checkpoints, the names are known: COCO's.
    """

    def __init__(self, width: float, depth: float, classes: int) -> None:
        super().__init__()
        self.names = COCO_NAMES if classes == len(COCO_NAMES) else ()
        c = [int(x * width) for x in (64, 128, 256, 512, 1024)]
        n = [max(round(x * depth), 1) for x in (3, 6, 9)]
        up = nn.Upsample(scale_factor=2)
        self.model = nn.ModuleList(
            [
                Conv(3, c[0], 6, 2, 2), Conv(c[0], c[1], 3, 2), C3(c[1], c[1], n[0]),
                Conv(c[1], c[2], 3, 2), C3(c[2], c[2], n[1]),
                Conv(c[2], c[3], 3, 2), C3(c[3], c[3], n[2]),
                Conv(c[3], c[4], 3, 2), C3(c[4], c[4], n[0]), SPPF(c[4]),
                Conv(c[4], c[3]), up, NONE(), C3(c[4], c[3], n[0], False),
                Conv(c[3], c[2]), up, NONE(), C3(c[3], c[2], n[0], False),
                Conv(c[2], c[2], 3, 2), NONE(), C3(c[3], c[3], n[0], False),
                Conv(c[3], c[3], 3, 2), NONE(), C3(c[4], c[4], n[0], False),
                Detect(classes, c[2:]),
            ]
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        """[b, 3, h, w], h and w multiples of 32 -> raw maps at 1/8, 1/16 and 1/32 of the size."""
        m = self.model
        for i in range(5):
            x = m[i](x)
        p3, p4 = x, m[6](m[5](x))
        u5 = m[10](m[9](m[8](m[7](p4))))
        u4 = m[14](m[13](torch.cat((m[11](u5), p4), 1)))
        o3 = m[17](torch.cat((m[15](u4), p3), 1))
        o4 = m[20](torch.cat((m[18](o3), u4), 1))
        o5 = m[23](torch.cat((m[21](o4), u5), 1))
        maps: list[Tensor] = m[24]([o3, o4, o5])
        return maps

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Raw maps -> [b, 4 + classes, n]: centre x, y, width, height in pixels, probabilities.

        A probability is objectness times that of the class.
        """
        detect: Any = self.model[24]
        parts = []
        for anchors, stride, level in zip(detect.anchors, STRIDES, maps, strict=True):
            b, _, h, w = level.shape
            y = level.view(b, ANCHORS, -1, h, w).sigmoid()
            rows, columns = torch.meshgrid(
                torch.arange(h, device=y.device), torch.arange(w, device=y.device), indexing="ij"
            )
            corner = torch.stack((columns, rows)).to(y.dtype)
            centre = (y[:, :, :2] * 2 - 0.5 + corner) * stride
            size = (y[:, :, 2:4] * 2) ** 2 * (anchors * stride)[None, :, :, None, None].to(y)
            both = torch.cat((centre, size, y[:, :, 5:] * y[:, :, 4:5]), 2)
            parts.append(both.permute(0, 2, 1, 3, 4).flatten(2))
        return torch.cat(parts, 2)
