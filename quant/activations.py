"""Quantizing the inputs of layers, without a change to the network's code.

A quantizer sits at the door of the module that owns a layer's weight. The other values of the
graph, residual sums for instance, stay in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from quant.calls import Call, Calls
from quant.grid import snapped
from quant.layers import Layer
from quant.ranges import Histogram, TensorGrid

NAME = "input_quantizer"  # of the module that a layer's owner gets


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
    model: nn.Module, layers: Mapping[str, Layer], grids: Mapping[str, TensorGrid]
) -> nn.Module:
    """A copy of `model` in which the inputs of the layers named in `grids` are quantized."""
    copy = opened(model, [layers[name] for name in grids])
    for name, grid in grids.items():
        put(copy, layers[name], grid)
    return copy


def opened(model: nn.Module, layers: Iterable[Layer]) -> nn.Module:
    """A copy of `model` in which `put` can quantize the inputs of these layers."""
    copy = deepcopy(model)
    for layer in layers:
        put(copy, layer, None)
        copy.get_submodule(layer.owner).register_forward_pre_hook(_quantize_first)
    return copy


def put(model: nn.Module, layer: Layer, grid: TensorGrid | None) -> None:
    """Quantize a layer's input on this grid from now on, in place; None: leave it as it is."""
    quantizer = nn.Identity() if grid is None else FakeQuantize(grid)
    device = model.get_parameter(layer.weight).device
    model.get_submodule(layer.owner).add_module(NAME, quantizer.to(device))


def _quantize_first(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer: Callable[[Tensor], Tensor] = getattr(module, NAME)
    return quantizer(args[0]), *args[1:]


@contextmanager
def watching(model: nn.Module, layers: Mapping[str, Layer]) -> Iterator[dict[str, Histogram]]:
    """While active, count the values that enter the modules that own the layers' weights."""
    seen = {name: Histogram() for name in layers}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: seen[name].add(args[0])

    handles = [
        model.get_submodule(layer.owner).register_forward_pre_hook(watch(name))
        for name, layer in layers.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def reachable(model: nn.Module, layers: Mapping[str, Layer], example: Tensor) -> dict[str, str]:
    """{layer: reason} of those whose input cannot be quantized at their module's door.

    That is so where the tensor that meets the weight is not the module's first argument, as in
    attention modules that project three inputs by one weight. Padding in between is allowed.
    """
    entered: dict[str, list[Tensor]] = {name: [] for name in layers}
    met: dict[str, list[Tensor]] = {name: [] for name in layers}
    weights = {name: model.get_parameter(layer.weight) for name, layer in layers.items()}
    handles = []
    for name, layer in layers.items():
        owner = model.get_submodule(layer.owner)

        def note(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            entered[name].append(args[0] if args else torch.zeros(0))

        handles.append(owner.register_forward_pre_hook(note))

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            met[name].append(call.x)

    try:
        with torch.no_grad(), Calls(weights, receive):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: "its input is not the first argument of the module that owns the weight"
        for name in layers
        if len(entered[name]) != len(met[name])
        or not all(_same(a, b) for a, b in zip(entered[name], met[name], strict=True))
    }


def _same(entered: Tensor, met: Tensor) -> bool:
    """Equal, or equal but for padding: the same sum of magnitudes over no fewer numbers."""
    if entered.shape == met.shape:
        return torch.equal(entered, met)
    total = entered.double().abs().sum()
    return met.numel() > entered.numel() and bool(
        torch.isclose(met.double().abs().sum(), total, rtol=1e-9)
    )
