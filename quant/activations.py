"""Fake quantization of activations, without changes to the network's code.

A quantizer acts on the input or on the output of a module; `quant.placement` chooses the modules.
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

INPUT, OUTPUT = "input_quantizer", "output_quantizer"  # submodules added to a quantized module


@dataclass(frozen=True)
class Place:
    """Where an activation is quantized: at a module's first argument, or at its output.

    Attributes:
        module: name of the module.
        behind: the output instead of the input.
    """

    module: str
    behind: bool = False

    @property
    def name(self) -> str:
        """MODULE or MODULE:output; module names contain no colon."""
        return f"{self.module}:output" if self.behind else self.module

    @property
    def attribute(self) -> str:
        """Name of the quantizer within the module."""
        return OUTPUT if self.behind else INPUT


def input_place(layer: Layer) -> Place:
    """The input of the module that owns the layer's weight."""
    return Place(layer.owner)


class FakeQuantize(nn.Module):
    """Rounds x to the nearest values on a `TensorGrid`, in x's precision."""

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: TensorGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self.register_buffer("scale", grid.scale.float())
        self.register_buffer("zero", grid.zero.float())
        self.range = grid.range

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, of any shape."""
        return snapped(x, self.scale.to(x.dtype), *self.range)

    def extra_repr(self) -> str:
        """The bit width, for the printed network."""
        return f"bits={self.bits}"


def with_quantizers(
    model: nn.Module, places: Mapping[str, Place], grids: Mapping[str, TensorGrid]
) -> nn.Module:
    """A copy of `model` with a quantizer at each place, on the grid of the same name."""
    copy = prepared(model, places.values())
    for name, place in places.items():
        set_quantizer(copy, place, grids[name])
    return copy


def prepared(model: nn.Module, places: Iterable[Place]) -> nn.Module:
    """A copy of `model` with hooks at these places, where `set_quantizer` can then quantize."""
    copy = deepcopy(model)
    for place in places:
        set_quantizer(copy, place, None)
        module = copy.get_submodule(place.module)
        if place.behind:
            module.register_forward_hook(_quantize_output)
        else:
            module.register_forward_pre_hook(_quantize_input)
    return copy


def set_quantizer(model: nn.Module, place: Place, grid: TensorGrid | None) -> None:
    """Quantize at a place of a `prepared` model on this grid, in place; None: do not quantize."""
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
def observing(model: nn.Module, places: Mapping[str, Place]) -> Iterator[dict[str, Histogram]]:
    """While active, collect histograms of the values at the places, by name."""
    histograms = {name: Histogram() for name in places}

    def observe_input(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: histograms[name].add(args[0])

    def observe_output(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda module, args, output: histograms[name].add(output)

    handles = []
    for name, place in places.items():
        module = model.get_submodule(place.module)
        if place.behind:
            handles.append(module.register_forward_hook(observe_output(name)))
        else:
            handles.append(module.register_forward_pre_hook(observe_input(name)))
    try:
        yield histograms
    finally:
        for handle in handles:
            handle.remove()
