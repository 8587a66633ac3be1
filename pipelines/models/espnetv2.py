"""ESPNetv2 for segmentation: Mehta et al., CVPR 2019 (arXiv:1811.11431).

This is the version in the authors' later EdgeNets code, whose decoder uses the pyramid pooling of
DiCENet (arXiv:1906.03516).
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (32, 128, 256, 512)  # of the encoder's levels, at width multiplier 2
DECODER = (64, 48, 32)  # of the decoder's levels
PYRAMID = (2.0, 1.5, 1.0, 0.5, 0.1)  # height and width of the maps, relative to the input
SMALLEST = 5  # smallest height or width of a map
BRANCHES = 4  # depthwise convolutions of an EESP unit


class ESPNetv2(nn.Module):
    """Encoder of EESP units, decoder of pyramid pooling units, and gated skip connections."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        width = min(classes // 2, 16)
        d1, d2, d3 = DECODER
        self.base_net = _Encoder()
        self.bu_dec_l1 = _PyramidPool(CHANNELS[3], width, d1)
        self.bu_dec_l2 = _PyramidPool(d1, width, d2)
        self.bu_dec_l3 = _PyramidPool(d2, width, d3)
        self.bu_dec_l4 = _PyramidPool(d3, width, classes, last=True)
        self.merge_enc_dec_l2 = _Gate(CHANNELS[2], d1)
        self.merge_enc_dec_l3 = _Gate(CHANNELS[1], d2)
        self.merge_enc_dec_l4 = _Gate(CHANNELS[0], d3)
        self.bu_br_l2, self.bu_br_l3, self.bu_br_l4 = (
            nn.Sequential(nn.BatchNorm2d(c), nn.PReLU(c)) for c in DECODER
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, 384, 384] -> logits [b, classes, 384, 384]; sizes must be multiples of 16."""
        e1, e2, e3, e4 = self.base_net(x)
        y = self.bu_dec_l1(e4)
        y = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(e3) + _double(y)))
        y = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(e2) + _double(y)))
        y = self.bu_dec_l4(self.bu_br_l4(self.merge_enc_dec_l4(e1) + _double(y)))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=True)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4 = CHANNELS
        self.level1 = _conv_bn_act(3, c1, 3, stride=2)
        self.level2_0 = _Down(c1, c2, limit=13, halvings=2)
        self.level3_0 = _Down(c2, c3, limit=11, halvings=3)
        self.level3 = nn.Sequential(*(_EESP(c3, c3, 1, limit=9) for _ in range(3)))
        self.level4_0 = _Down(c3, c4, limit=9, halvings=4)
        self.level4 = nn.Sequential(*(_EESP(c4, c4, 1, limit=7) for _ in range(7)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[b, 3, h, w] -> feature maps at 1/2, 1/4, 1/8 and 1/16 of its height and width."""
        e1 = self.level1(x)
        e2 = self.level2_0(e1, x)
        e3 = self.level3(self.level3_0(e2, x))
        return e1, e2, e3, self.level4(self.level4_0(e3, x))


class _EESP(nn.Module):
    """Grouped reduction, dilated depthwise branches with cumulative sums, grouped expansion.

    `limit`: largest receptive field of a branch; a branch that would exceed it is not dilated.
    """

    def __init__(
        self, c_in: int, c_out: int, stride: int, limit: int, residual: bool = True
    ) -> None:
        super().__init__()
        n = c_out // BRANCHES
        dilations = sorted(1 if 3 + 2 * i > limit else i + 1 for i in range(BRANCHES))
        self.proj_1x1 = _conv_bn_act(c_in, n, 1, groups=BRANCHES)
        self.spp_dw = nn.ModuleList(
            _named(conv=nn.Conv2d(n, n, 3, stride, d, d, groups=n, bias=False)) for d in dilations
        )
        self.br_after_cat = _named(bn=nn.BatchNorm2d(c_out), act=nn.PReLU(c_out))
        self.conv_1x1_exp = _conv_bn(c_out, c_out, 1, groups=BRANCHES)
        self.module_act = nn.PReLU(c_out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.proj_1x1(x)
        sums = [self.spp_dw[0](reduced)]
        for branch in self.spp_dw[1:]:
            sums.append(branch(reduced) + sums[-1])
        y: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(sums, 1)))
        if not self.residual:
            return y
        activated: Tensor = self.module_act(y + x)
        return activated


class _Down(nn.Module):
    """A strided EESP unit in parallel to average pooling, plus features of the downscaled image."""

    def __init__(self, c_in: int, c_out: int, limit: int, halvings: int) -> None:
        super().__init__()
        self.eesp = _EESP(c_in, c_out - c_in, 2, limit, residual=False)
        self.avg = nn.AvgPool2d(3, 2, 1)
        self.inp_reinf = nn.Sequential(_conv_bn_act(3, 3, 3), _conv_bn(3, c_out, 1))
        self.act = nn.PReLU(c_out)
        self.halvings = halvings  # number of times the image is halved to reach this level

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        for _ in range(self.halvings):
            image = F.avg_pool2d(image, 3, 2, 1)
        both = torch.cat((self.avg(x), self.eesp(x)), 1)
        y: Tensor = self.act(both + self.inp_reinf(image))
        return y


class _PyramidPool(nn.Module):
    """Depthwise convolutions at several resolutions, concatenated and merged."""

    def __init__(self, c_in: int, width: int, c_out: int, last: bool = False) -> None:
        super().__init__()
        n = len(PYRAMID)
        self.projection_layer = _cbr(c_in, width, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) for _ in PYRAMID
        )
        self.merge_layer = nn.Sequential(
            _br(width * n),
            nn.ChannelShuffle(n),
            _cbr(width * n, width, 3, groups=width),
            nn.Conv2d(width, c_out, 1, bias=last),
        )
        self.br = nn.Identity() if last else _br(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)
        stages = zip(PYRAMID, self.stages, strict=True)
        y: Tensor = self.br(self.merge_layer(torch.cat([_at(s, f, x) for s, f in stages], 1)))
        return y


class _Gate(nn.Module):
    """A grouped convolution, weighted per channel by the pooled input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c_in, c_out, 1, bias=False), nn.Sigmoid()
        )
        self.expansion_layer = _cbr(c_in, c_out, 3, groups=math.gcd(c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expansion_layer(x) * self.wt_layer(x)
        return y


def _at(scale: float, stage: nn.Module, x: Tensor) -> Tensor:
    """Apply `stage` to a resized x; the result has the size of x."""
    h, w = own = (x.shape[2], x.shape[3])
    size = max(math.ceil(h * scale), SMALLEST), max(math.ceil(w * scale), SMALLEST)
    if scale < 1:
        y = stage(F.adaptive_avg_pool2d(x, size))
        return F.interpolate(y, own, mode="bilinear", align_corners=True)
    if scale > 1:
        y = stage(F.interpolate(x, size, mode="bilinear", align_corners=True))
        return F.adaptive_avg_pool2d(y, own)
    same: Tensor = stage(x)
    return same


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _conv(c_in: int, c_out: int, kernel: int, stride: int, groups: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def _conv_bn(c_in: int, c_out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return _named(conv=_conv(c_in, c_out, kernel, 1, groups), bn=nn.BatchNorm2d(c_out))


def _conv_bn_act(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = _conv(c_in, c_out, kernel, stride, groups)
    return _named(conv=conv, bn=nn.BatchNorm2d(c_out), act=nn.PReLU(c_out))


def _cbr(c_in: int, c_out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    conv = _conv(c_in, c_out, kernel, 1, groups)
    return _named(cbr=nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.PReLU(c_out)))


def _br(c: int) -> nn.Sequential:
    return _named(br=nn.Sequential(nn.BatchNorm2d(c), nn.PReLU(c)))
