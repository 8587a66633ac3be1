"""Placement of activation quantizers: at layer inputs, or where tensors are produced.

`at_inputs` quantizes the input of each layer; everything else, such as residual sums, stays in
floating point. `at_outputs`, as in EPTQ (arXiv 2309.11531) and engines that keep integer tensors in
memory, quantizes what enters or leaves a layer where it is produced (after normalization and
activation function), so that all its consumers, residual sums included, get the same quantized
values. The outputs of the network are not quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant.activations import Place, input_place
from quant.calls import Call, Calls
from quant.layers import Layer
from quant.trace import Value, traced

# fmt: off
ACTIVATIONS = frozenset({
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "silu", "hardswish", "gelu", "leaky_relu",
    "leaky_relu_", "prelu", "elu", "elu_", "selu", "celu", "mish", "sigmoid", "hardsigmoid",
    "tanh", "softplus",
})
EXACT = frozenset({  # operations after which values on a grid are still on it
    "pad", "cat", "chunk", "split", "flatten", "reshape", "view", "permute", "transpose",
    "contiguous", "expand", "squeeze", "unsqueeze", "dropout", "max_pool2d", "channel_shuffle",
    "pixel_shuffle", "__getitem__", "clone",
})
# fmt: on
NOT_ALONE = "its input is not the first argument of the module that owns the weight"
NOT_CALLED = "the module that owns the weight is not called: another one uses its weight"
UNSEEN = "no module returns the layer's output after its activation function"


@dataclass(frozen=True)
class Plan:
    """The places to quantize.

    Attributes:
        places: places by name.
        feeds: for each layer with a quantized input, names of the places that the input comes from.
        left_out: {layer or layer + ":output": reason} for tensors that stay in floating point.
    """

    places: Mapping[str, Place]
    feeds: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]


def at_inputs(model: nn.Module, layers: Mapping[str, Layer], example: Tensor) -> Plan:
    """Quantize the input of every layer, at a place with the layer's name.

    Layers whose weight is not applied to their module's first argument are left out, such as
    attention modules that project three inputs by one weight. Operations in between that keep
    values on a grid, such as all kinds of padding, are allowed. A weight that several modules share
    has a place at each of them, with the module's name.

    Args:
        model: the network in eval mode.
        layers: layers by name, from `quant.layers.find`.
        example: one small batch.
    """
    module_inputs: dict[str, list[tuple[Any, ...]]] = {name: [] for name in layers}
    layer_inputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    weights = {name: model.get_parameter(layer.weight) for name, layer in layers.items()}
    owners = {name: _owners(model, weight) for name, weight in weights.items()}
    handles = []
    for name in layers:

        def record(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
        ) -> None:
            module_inputs[name].append((*args, *kwargs.values()))

        handles += [
            model.get_submodule(owner).register_forward_pre_hook(record, with_kwargs=True)
            for owner in owners[name]
        ]

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            layer_inputs[name].append(call.x)

    try:
        with torch.no_grad(), Calls(weights, receive):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    left_out = {
        name: NOT_CALLED if not module_inputs[name] else NOT_ALONE
        for name in layers
        if len(module_inputs[name]) != len(layer_inputs[name])
        or not all(
            _fed(arguments, x)
            for arguments, x in zip(module_inputs[name], layer_inputs[name], strict=True)
        )
    }
    places: dict[str, Place] = {}
    feeds: dict[str, tuple[str, ...]] = {}
    for name in layers:
        if name not in left_out:
            own = input_place(layers[name])
            others = [Place(owner) for owner in owners[name] if owner != own.module]
            places |= {name: own, **{place.name: place for place in others}}
            feeds[name] = (name, *(place.name for place in others))
    return Plan(places, feeds, left_out)


def _owners(model: nn.Module, weight: Tensor) -> list[str]:
    """The modules that hold a weight."""
    return [
        name
        for name, module in model.named_modules()
        if any(held is weight for held in module.parameters(recurse=False))
    ]


def at_outputs(model: nn.Module, layers: Mapping[str, Layer], example: Tensor) -> Plan:
    """Quantize the outputs of modules that feed or follow layers, at places MODULE:output.

    Tensors that no module returns (the image, a mean taken by a function) are quantized at the
    inputs of the layers that use them. Arguments as in `at_inputs`.
    """
    trace, outputs = traced(model, example[:1])  # sentences of several lengths run separately
    by_input = at_inputs(model, layers, example)
    final = {value for output in outputs for value in _last_layers(output)}
    places: dict[str, Place] = {}
    feeds: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    for name, layer in layers.items():
        values = trace.by_weight[layer.weight]
        sources = dict.fromkeys(s for value in values for s in _sources(value.arguments[0]))
        if all(source.modules for source in sources):
            feeding = dict(_output_of(source.modules[0]) for source in sources)
            places, feeds[name] = places | feeding, tuple(feeding)
        elif name in by_input.places:
            places[name], feeds[name] = by_input.places[name], (name,)
        else:
            left_out[name] = by_input.left_out[name]
        for value in values:
            activated = _activated(value)
            if activated.modules and value not in final:
                places |= [_output_of(activated.modules[0])]
            elif value not in final:
                left_out[f"{name}:output"] = UNSEEN
    return Plan(places, feeds, left_out)


PLACEMENTS: Mapping[str, Callable[[nn.Module, Mapping[str, Layer], Tensor], Plan]] = {
    "inputs": at_inputs,
    "outputs": at_outputs,
}


def _output_of(module: str) -> tuple[str, Place]:
    place = Place(module, behind=True)
    return place.name, place


def _exact(value: Value) -> bool:
    return value.function in EXACT or (value.function == "interpolate" and value.nearest)


def _sources(value: Value) -> Iterator[Value]:
    """The values that `value` was assembled from by exact operations only."""
    if not _exact(value):
        yield value
        return
    for argument in value.arguments:
        yield from _sources(argument)


def _activated(value: Value) -> Value:
    """A layer's output after normalization and activation function, where nothing else uses it."""
    while len(value.users) == 1 and value.users[0].function in {"batch_norm", *ACTIVATIONS}:
        (value,) = value.users
    return value


def _last_layers(output: Value) -> set[Value]:
    """Outputs of the last layers before the network's `output`, on all paths to it."""
    found, seen, pending = set(), set(), [output]
    while pending:
        value = pending.pop()
        if value.weight:
            found.add(value)
        elif value not in seen:
            seen.add(value)
            pending += value.arguments
    return found


def _fed(arguments: tuple[Any, ...], layer_input: Tensor) -> bool:
    """Whether a layer's input is its module's first argument and no other.

    It may have gone through what keeps values on a grid, such as padding: then every value of it is
    a value of the argument, or 0.
    """
    first = arguments[0] if arguments else None
    if not isinstance(first, Tensor) or any(other is first for other in arguments[1:]):
        return False
    if first.shape == layer_input.shape:
        return torch.equal(first, layer_input)
    values = torch.cat([first.flatten(), first.new_zeros(1)])
    return layer_input.numel() > first.numel() and bool(torch.isin(layer_input, values).all())
