"""Workload of each layer on one image, recorded in one run of the network.

A network's cost at given bits is the sum of its layers' costs; operations between layers
(additions, activations, resizing) are not counted.
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
    """The work of one layer on one image.

    Attributes:
        name: name of the layer.
        shape: shape of the weight, [out, in / groups, ...].
        groups: 1 except for a grouped convolution.
        positions: output positions per image: 1 for a Linear on [b, c], the number of tokens on
            [b, t, c], output height times width for a convolution.
        inputs: input elements per image.
        outputs: output elements per image.
        geometries: one per call. If the network calls the layer several times, positions, inputs
            and outputs are sums over the calls. Empty if only the sums are known.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    positions: int
    inputs: int
    outputs: int
    geometries: tuple[LayerGeometry, ...] = ()

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-adds per image."""
        return self.weights * self.positions

    @property
    def calls(self) -> int:
        """Number of calls per image."""
        return max(1, len(self.geometries))


class CostModel(Protocol):
    """The cost of a layer; a network's cost is the sum over its layers."""

    @property
    def name(self) -> str:
        """ "size", "bops", "roofline" or "measured"."""
        ...

    @property
    def unit(self) -> str:
        """ "MB", "GBOPs" or "ms"."""
        ...

    def cost(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """The cost of one layer, in `unit`. 16 bits are half precision, 32 bits float32."""
        ...


def workloads(
    network: nn.Module, example: Tensor, layers: Mapping[str, Layer]
) -> dict[str, Workload]:
    """Run `network` on the first image of `example` and return the workload of each layer.

    Args:
        network: the network in eval mode; not changed.
        example: images [b, ...], at least one.
        layers: layers by name, from `quant.layers.find`.

    Raises:
        ValueError: there is no image, or the network does not use one of the layers on it.
    """
    if len(example) == 0:
        raise ValueError("the example holds no image, but the costs of layers need one")
    geometries: dict[str, list[LayerGeometry]] = {name: [] for name in layers}

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            geometries[name].append(geometry_of(call))

    weights = {name: network.get_parameter(layer.weight) for name, layer in layers.items()}
    with torch.no_grad(), Calls(weights, receive):
        network(example[:1])
    unused = [name for name, calls in geometries.items() if not calls]
    if unused:
        raise ValueError(
            f"layer {unused[0]} is not used on an example of shape {list(example.shape)} "
            f"({len(unused)} of {len(layers)} layers): do the layers belong to another network?"
        )
    return {name: _workload(layer, tuple(geometries[name])) for name, layer in layers.items()}


def require_bits(weight_bits: int, act_bits: int) -> None:
    """Raise a ValueError unless both are bit widths from 1 to 32."""
    for name, bits in (("weight_bits", weight_bits), ("act_bits", act_bits)):
        if not 1 <= bits <= 32:
            raise ValueError(f"{name}={bits} must lie in 1 ... 32 (16: half precision, 32: float)")


def _workload(layer: Layer, geometries: tuple[LayerGeometry, ...]) -> Workload:
    return Workload(
        layer.name,
        layer.shape,
        layer.groups,
        positions=sum(g.positions for g in geometries),
        inputs=sum(prod(g.input) for g in geometries),
        outputs=sum(prod(g.output) for g in geometries),
        geometries=geometries,
    )
