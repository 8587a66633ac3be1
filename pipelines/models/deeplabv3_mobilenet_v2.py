"""DeepLabV3 (Chen et al., arXiv:1706.05587) on MobileNetV2, without ASPP's atrous branches.

As in Sandler et al., MobileNetV2, CVPR 2018, section 6.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

STAGES = 18  # stages of torchvision's `features` used: all but the last 1x1 convolution
DILATED = range(14, STAGES)  # stages with 160 and 320 channels, at stride 1


class DeepLabV3MobileNetV2(nn.Module):
    """Output stride 16; the head is image pooling in parallel to a 1x1 convolution.

    BatchNorm is folded in the checkpoint: the backbone's BatchNorms only add a bias, and the head
    has none.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = mobilenet_v2(weights=None).features[:STAGES]
        for i in DILATED:
            _keep_resolution(self.backbone[i], dilation=1 if i == DILATED.start else 2)
        self.aspp0, self.image_pooling = nn.Conv2d(320, 256, 1), nn.Conv2d(320, 256, 1)
        self.concat_projection, self.logits = nn.Conv2d(512, 256, 1), nn.Conv2d(256, classes, 1)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, 513, 513] in [-1, 1] -> logits [b, classes, 513, 513].

        Other heights and widths must be a multiple of 16, plus 1.
        """
        size = x.shape[2:]
        x = self.backbone(x)
        pooled = self.relu1(self.image_pooling(self.pool(x))).expand(-1, -1, *x.shape[2:])
        x = torch.cat((pooled, self.relu2(self.aspp0(x))), 1)
        x = self.logits(self.relu3(self.concat_projection(x)))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _keep_resolution(block: nn.Module, dilation: int) -> None:
    for conv in block.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            conv.stride = (1, 1)
            conv.dilation = conv.padding = (dilation, dilation)
