"""One call of a layer, without its numbers: sizes and geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch.nn.functional as F

from quant.calls import Call, pair


@dataclass(frozen=True)
class LayerGeometry:
    """One call of `linear` or `conv2d` on one image: all that its running time depends on.

    Attributes:
        shape: of the weight: [out, in / groups, ...].
        groups: of the convolution, 1 of a linear layer.
        input: [n, c, h, w] of a convolution, [positions, c] of a linear layer.
        output: likewise.
        stride, dilation: (down, right).
        padding: numbers added at the (top, left, bottom, right).
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
        """Output positions: each is `prod(shape)` multiply-adds."""
        return prod(self.output) // self.shape[0]

    @property
    def key(self) -> str:
        """The same for uses that take the same time, e.g. "16x3x3x3 g1 on 1x3x32x32 ..."."""
        text = f"{_by(self.shape)} g{self.groups} on {_by(self.input)}"
        if len(self.shape) == 2:
            return text
        stride, padding, dilation = map(_by, (self.stride, self.padding, self.dilation))
        return f"{text} stride {stride} padding {padding} dilation {dilation}"


def geometry_of(call: Call) -> LayerGeometry:
    """The sizes of a call, without its numbers."""
    x, w = call.x, call.weight
    shape = tuple(w.shape)
    if w.dim() == 2:
        positions = x.numel() // x.shape[-1]
        return LayerGeometry(shape, 1, (positions, shape[1]), (positions, shape[0]))
    x = x if x.dim() == 4 else x[None]
    stride, dilation = pair(call.stride), pair(call.dilation)
    arguments = (None, stride, call.padding, dilation, call.groups)
    output = F.conv2d(x.to("meta"), w.to("meta"), *arguments)  # sizes only
    return LayerGeometry(
        shape, call.groups, tuple(x.shape), tuple(output.shape), stride, call.margins, dilation
    )  # fmt: skip


def _by(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
