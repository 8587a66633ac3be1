"""Geometry of one call of a layer: all sizes, no values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch.nn.functional as F

from quant.calls import Call, pair


@dataclass(frozen=True)
class LayerGeometry:
    """One call of `linear` or `conv2d` on one image: everything its run time depends on.

    Attributes:
        shape: shape of the weight, [out, in / groups, ...].
        groups: groups of the convolution; 1 for a linear layer.
        input: input shape, [n, c, h, w] for a convolution, [positions, c] for a linear layer.
        output: output shape, in the same layout.
        stride, dilation: (down, right).
        padding: (top, left, bottom, right), in pixels.
    """

    shape: tuple[int, ...]
    groups: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def positions(self) -> int:
        """Output positions, each worth `prod(shape)` multiply-adds."""
        return prod(self.output) // self.shape[0]

    @property
    def key(self) -> str:
        """Text that is equal for calls of equal run time: "16x3x3x3 g1 on 1x3x32x32 ..."."""
        text = f"{_by(self.shape)} g{self.groups} on {_by(self.input)}"
        if len(self.shape) == 2:
            return text
        stride, padding, dilation = map(_by, (self.stride, self.padding, self.dilation))
        return f"{text} stride {stride} padding {padding} dilation {dilation}"


def geometry_of(call: Call) -> LayerGeometry:
    """The geometry of a call."""
    x, w = call.x, call.weight
    shape = tuple(w.shape)
    if w.dim() == 2:
        positions = x.numel() // x.shape[-1]
        return LayerGeometry(shape, 1, (positions, shape[1]), (positions, shape[0]))
    x = x if x.dim() == 4 else x[None]
    stride, dilation = pair(call.stride), pair(call.dilation)
    arguments = (None, stride, call.padding, dilation, call.groups)
    output = F.conv2d(x.to("meta"), w.to("meta"), *arguments)  # computes the shape only
    return LayerGeometry(
        shape, call.groups, tuple(x.shape), tuple(output.shape), stride, call.margins, dilation
    )  # fmt: skip


def _by(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))
