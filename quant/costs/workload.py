"""What each layer does on one image, measured by running the network once.

A network's cost at given bits is the sum of its layers' costs: what stands between layers
(additions, activations, resizing) is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from quant.calls import Call, Calls
from quant.costs.geometry import LayerGeometry, geometry_of
from quant.layers import Layer


@dataclass(frozen=True)
class Workload:
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
    uses: tuple[LayerGeometry, ...] = ()

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

    def cost(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Of one layer. 16 bits are half precision, 32 are float32."""
        ...


def workloads(
    network: nn.Module, example: Tensor, layers: Mapping[str, Layer]
) -> dict[str, Workload]:
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
    uses: dict[str, list[LayerGeometry]] = {name: [] for name in layers}

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            uses[name].append(geometry_of(call))

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


def _work(layer: Layer, uses: tuple[LayerGeometry, ...]) -> Workload:
    return Workload(
        layer.name,
        layer.shape,
        layer.groups,
        positions=sum(use.positions for use in uses),
        inputs=sum(prod(use.input) for use in uses),
        outputs=sum(prod(use.output) for use in uses),
        uses=uses,
    )
