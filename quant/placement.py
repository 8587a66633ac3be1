"""Where the quantizers of activations sit: at the doors of layers, or where tensors are made.

`at_inputs`: what enters a layer is quantized at its door. All else, residual sums for instance,
stays in floating point. `at_outputs`, as in EPTQ (arXiv 2309.11531) and engines that keep whole
numbers in memory: what enters or leaves a layer, behind its normalization and its activation
function, is quantized where it is made, so that whatever takes it, a residual sum too, takes the
same numbers. The outputs of the network stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant.activations import Place, door
from quant.calls import Call, Calls
from quant.layers import Layer
from quant.trace import Value, traced

# fmt: off
ACTIVATIONS = frozenset({
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "silu", "hardswish", "gelu", "leaky_relu",
    "leaky_relu_", "prelu", "elu", "elu_", "selu", "celu", "mish", "sigmoid", "hardsigmoid",
    "tanh", "softplus",
})
EXACT = frozenset({  # values on a grid stay on it
    "pad", "cat", "chunk", "split", "flatten", "reshape", "view", "permute", "transpose",
    "contiguous", "expand", "squeeze", "unsqueeze", "dropout", "max_pool2d", "channel_shuffle",
    "pixel_shuffle", "__getitem__", "clone",
})
# fmt: on
NOT_ALONE = "its input is not the first argument of the module that owns the weight"
UNSEEN = "no module gives what the layer gives, behind its activation function"


@dataclass(frozen=True)
class Plan:
    """Where quantizers go.

    Attributes:
        places: by name.
        feeds: names of the places that a layer's input comes from, by layer.
        left_out: {layer, or layer + ":output": reason} of those that stay in floating point.
    """

    places: Mapping[str, Place]
    feeds: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]


def at_inputs(model: nn.Module, layers: Mapping[str, Layer], example: Tensor) -> Plan:
    """At the door of every layer, under the layer's name.

    Left out is a layer where the tensor that meets the weight is not the module's first argument,
    as in attention modules that project three inputs by one weight. Padding in between is allowed.
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
    left_out = {
        name: NOT_ALONE
        for name in layers
        if len(entered[name]) != len(met[name])
        or not all(_same(a, b) for a, b in zip(entered[name], met[name], strict=True))
    }
    reached = [name for name in layers if name not in left_out]
    places = {name: door(layers[name]) for name in reached}
    return Plan(places, {name: (name,) for name in reached}, left_out)


def at_outputs(model: nn.Module, layers: Mapping[str, Layer], example: Tensor) -> Plan:
    """Behind the modules that make what enters or leaves layers, under MODULE:output.

    What no module gives as it is (the image, a mean taken by a function) is quantized at the
    doors of the layers that it enters.
    """
    trace, outputs = traced(model, example[:1])  # sentences of two lengths would run apart
    doors = at_inputs(model, layers, example)
    ends = {value for output in outputs for value in _last_layers(output)}
    places: dict[str, Place] = {}
    feeds: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    for name, layer in layers.items():
        given = trace.by_weight[layer.weight]
        sources = dict.fromkeys(s for value in given for s in _sources(value.arguments[0]))
        if all(source.modules for source in sources):
            behind = dict(_behind(source.modules[0]) for source in sources)
            places, feeds[name] = places | behind, tuple(behind)
        elif name in doors.places:
            places[name], feeds[name] = doors.places[name], (name,)
        else:
            left_out[name] = doors.left_out[name]
        for value in given:
            left = _activated(value)
            if left.modules and value not in ends:
                places |= [_behind(left.modules[0])]
            elif value not in ends:
                left_out[f"{name}:output"] = UNSEEN
    return Plan(places, feeds, left_out)


PLACEMENTS: Mapping[str, Callable[[nn.Module, Mapping[str, Layer], Tensor], Plan]] = {
    "inputs": at_inputs,
    "outputs": at_outputs,
}


def _behind(module: str) -> tuple[str, Place]:
    place = Place(module, behind=True)
    return place.name, place


def _exact(value: Value) -> bool:
    return value.function in EXACT or (value.function == "interpolate" and value.nearest)


def _sources(value: Value) -> Iterator[Value]:
    """What the value was put together from without any arithmetic."""
    if not _exact(value):
        yield value
        return
    for argument in value.arguments:
        yield from _sources(argument)


def _activated(value: Value) -> Value:
    """What a layer gives, behind normalization and activation function if these alone take it."""
    while len(value.users) == 1 and value.users[0].function in {"batch_norm", *ACTIVATIONS}:
        (value,) = value.users
    return value


def _last_layers(output: Value) -> set[Value]:
    """Values made by layers that the output comes from without passing another layer."""
    found, seen, waiting = set(), set(), [output]
    while waiting:
        value = waiting.pop()
        if value.weight:
            found.add(value)
        elif value not in seen:
            seen.add(value)
            waiting += value.arguments
    return found


def _same(entered: Tensor, met: Tensor) -> bool:
    """Equal, or equal but for padding: the same sum of magnitudes over no fewer numbers."""
    if entered.shape == met.shape:
        return torch.equal(entered, met)
    total = entered.double().abs().sum()
    return met.numel() > entered.numel() and bool(
        torch.isclose(met.double().abs().sum(), total, rtol=1e-9)
    )
