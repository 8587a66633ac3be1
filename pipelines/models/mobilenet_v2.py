"""MobileNetV2 (Sandler et al., CVPR 2018) with TensorFlow's padding and torchvision's key names."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models import mobilenet_v2


def mobilenet_v2_tf(classes: int) -> nn.Module:
    """torchvision's network, with strided convolutions padded below and on the right only.

    This is TensorFlow's "same" padding for inputs of even height and width, so height and width
    must be multiples of 32. Input [b, 3, 224, 224] in [-1, 1]; output: logits [b, classes].
    """
    network: nn.Module = mobilenet_v2(weights=None, num_classes=classes)
    for name, block in list(network.named_modules()):
        if not isinstance(block, nn.Sequential) or len(block) == 0:
            continue
        conv = block[0]
        if isinstance(conv, nn.Conv2d) and conv.stride == (2, 2):
            conv.padding = (0, 0)
            parts = OrderedDict([("pad", nn.ZeroPad2d((0, 1, 0, 1))), *block.named_children()])
            network.set_submodule(name, nn.Sequential(parts))
    return network.eval()
