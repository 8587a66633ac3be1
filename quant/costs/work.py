"""What each layer does on one image, measured by running the network once.

A network's cost at given bits is the sum of its layers' costs: what stands between layers
(additions, activations, resizing) is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.layers import Call, Calls, Layer


@dataclass(frozen=True)
class Use:
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


@dataclass(frozen=True)
class Work:
    """What one layer does on one input (image).

    Attributes:
        name: of the layer.
        shape: of the weight: [out, in / groups, ...].
        groups: 1 unless a grouped convolution.
        positions: output positions of one image: 1 for a Linear on [b, c], tokens on [b, t, c],
            height times width of the output of a convolution.
        inputs: numbers in its input for one image.
        outputs: numbers in its output for one image.
        uses: the calls, more than one where the network uses the layer several times: then
            positions, inputs and outputs are their sums. Empty where only the sums are known.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    positions: int
    inputs: int
    outputs: int
    uses: tuple[Use, ...] = ()

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.weights * self.positions

    @property
    def calls(self) -> int:
        """How often one image goes through the layer."""
        return max(1, len(self.uses))


class CostModel(Protocol):
    """What a layer costs; a network's cost is the sum over its layers."""

    @property
    def name(self) -> str:
        """ "size", "bops", "roofline" or "measured"."""
        ...

    @property
    def unit(self) -> str:
        """ "MB", "GBOPs" or "ms"."""
        ...

    def cost(self, work: Work, weight_bits: int, act_bits: int) -> float:
        """Of one layer. 16 bits are half precision, 32 are float32."""
        ...


def works(network: nn.Module, example: Tensor, layers: Mapping[str, Layer]) -> dict[str, Work]:
    """Run `network` on the first image of `example`, and see what each of `layers` does.

    Args:
        network: in eval mode; left as it is.
        example: [b, ...], at least one image.
        layers: by name, see `quant.layers.find`.

    Raises:
        ValueError: no image, or a layer that the network does not use on it.
    """
    if len(example) == 0:
        raise ValueError("the example holds no image: the costs of layers are seen on the first")
    uses: dict[str, list[Use]] = {name: [] for name in layers}

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            uses[name].append(use_of(call))

    weights = {name: network.get_parameter(layer.weight) for name, layer in layers.items()}
    with torch.no_grad(), Calls(weights, receive):
        network(example[:1])
    unused = [name for name, found in uses.items() if not found]
    if unused:
        raise ValueError(
            f"layer {unused[0]} is not used on an example of shape {list(example.shape)} "
            f"({len(unused)} of {len(layers)} layers): were the layers found on another network?"
        )
    return {name: _work(layer, tuple(uses[name])) for name, layer in layers.items()}


def require_bits(weight_bits: int, act_bits: int) -> None:
    """Raise a ValueError where one of them is no number of bits."""
    for name, bits in (("weight_bits", weight_bits), ("act_bits", act_bits)):
        if not 1 <= bits <= 32:
            raise ValueError(f"{name}={bits} must lie in 1 ... 32 (16: half precision, 32: float)")


def use_of(call: Call) -> Use:
    """The sizes of a call, without its numbers."""
    x, w = call.x, call.weight
    shape = tuple(w.shape)
    if w.dim() == 2:
        positions = x.numel() // x.shape[-1]
        return Use(shape, 1, (positions, shape[1]), (positions, shape[0]))
    x = x if x.dim() == 4 else x[None]
    stride, dilation = _pair(call.stride), _pair(call.dilation)
    arguments = (None, stride, call.padding, dilation, call.groups)
    output = F.conv2d(x.to("meta"), w.to("meta"), *arguments)  # sizes only
    padding = _padding(call.padding, shape[2:], dilation)
    return Use(
        shape, call.groups, tuple(x.shape), tuple(output.shape), stride, padding, dilation
    )  # fmt: skip


def _work(layer: Layer, uses: tuple[Use, ...]) -> Work:
    return Work(
        layer.name,
        layer.shape,
        layer.groups,
        positions=sum(use.positions for use in uses),
        inputs=sum(prod(use.input) for use in uses),
        outputs=sum(prod(use.output) for use in uses),
        uses=uses,
    )


def _padding(
    padding: Any, kernel: tuple[int, ...], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right); "same" puts the odd one below and to the right, as torch does."""
    if padding == "same":
        down, right = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return down // 2, right // 2, down - down // 2, right - right // 2
    down, right = _pair(0 if isinstance(padding, str) else padding)
    return down, right, down, right


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return int(first), int(second)


def _by(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
