"""Quantizing activations, without a change to the network's code.

A quantizer sits at the door of a module, or behind it; `quant.placement` says of which ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from quant.grid import snapped
from quant.layers import Layer
from quant.ranges import Histogram, TensorGrid

INPUT, OUTPUT = "input_quantizer", "output_quantizer"  # attributes that a module gets


@dataclass(frozen=True)
class Place:
    """The first argument of a module, or what it gives."""

    module: str
    behind: bool = False

    @property
    def name(self) -> str:
        """MODULE or MODULE:output; no module has a colon in its name."""
        return f"{self.module}:output" if self.behind else self.module

    @property
    def attribute(self) -> str:
        """Name of the quantizer in the module."""
        return OUTPUT if self.behind else INPUT


def door(layer: Layer) -> Place:
    """The input of the module that owns the layer's weight."""
    return Place(layer.owner)


class FakeQuantize(nn.Module):
    """x -> the nearest values on a `TensorGrid`, in x's precision."""

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: TensorGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self.register_buffer("scale", grid.scale.float())
        self.register_buffer("zero", grid.zero.float())
        self.range = grid.range

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the shape stays."""
        return snapped(x, self.scale.to(x.dtype), *self.range)

    def extra_repr(self) -> str:
        """Shown in the printed network."""
        return f"bits={self.bits}"


def inserted(
    model: nn.Module, places: Mapping[str, Place], grids: Mapping[str, TensorGrid]
) -> nn.Module:
    """A copy of `model` with a quantizer at each of the places, on the grid of the same name."""
    copy = opened(model, places.values())
    for name, place in places.items():
        put(copy, place, grids[name])
    return copy


def opened(model: nn.Module, places: Iterable[Place]) -> nn.Module:
    """A copy of `model` in which `put` can quantize at these places."""
    copy = deepcopy(model)
    for place in places:
        put(copy, place, None)
        module = copy.get_submodule(place.module)
        if place.behind:
            module.register_forward_hook(_quantize_output)
        else:
            module.register_forward_pre_hook(_quantize_input)
    return copy


def put(model: nn.Module, place: Place, grid: TensorGrid | None) -> None:
    """Quantize at a place on this grid from now on, in place; None: leave it as it is."""
    quantizer = nn.Identity() if grid is None else FakeQuantize(grid)
    device = next(model.parameters()).device
    model.get_submodule(place.module).add_module(place.attribute, quantizer.to(device))


def _quantize_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer: Callable[[Tensor], Tensor] = getattr(module, INPUT)
    return quantizer(args[0]), *args[1:]


def _quantize_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    quantizer: Callable[[Tensor], Tensor] = getattr(module, OUTPUT)
    return quantizer(output)


@contextmanager
def watching(model: nn.Module, places: Mapping[str, Place]) -> Iterator[dict[str, Histogram]]:
    """While active, count the values that come by at the places."""
    seen = {name: Histogram() for name in places}

    def at_door(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: seen[name].add(args[0])

    def behind(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda module, args, output: seen[name].add(output)

    handles = []
    for name, place in places.items():
        module = model.get_submodule(place.module)
        if place.behind:
            handles.append(module.register_forward_hook(behind(name)))
        else:
            handles.append(module.register_forward_pre_hook(at_door(name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
