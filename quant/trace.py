"""Data flow of one forward pass: which operation produces each tensor and which ones consume it.

Recorded at calls of torch functions and of modules. Nothing is compiled, so any network code works.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.calls import CONV, LINEAR, Call, SeesCalls

READS = frozenset({"item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__"})


@dataclass(eq=False)
class Value:
    """The content of a tensor at one time; an in-place operation gives the tensor a new value.

    Attributes:
        function: name of the function that produced it; "" for a tensor made elsewhere (an input).
        arguments: the values it was computed from, without parameters and buffers.
        users: the values computed from it.
        weight: name of the weight if `linear` or `conv2d` produced it, else "".
        mean: name of the running mean if `batch_norm` produced it, else "".
        nearest: whether it was produced by nearest-neighbour interpolation.
        modules: names of the modules that return it, innermost first.
    """

    function: str = ""
    arguments: list[Value] = field(default_factory=list)
    users: list[Value] = field(default_factory=list)
    weight: str = ""
    mean: str = ""
    nearest: bool = False
    modules: list[str] = field(default_factory=list)


class Trace(SeesCalls):
    """Records all values while active.

    Attributes:
        by_weight: outputs of `linear` and `conv2d` by the weight's name, in order of use.
        values: all of them, in order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.buffers = {id(b): name for name, b in model.named_buffers()}
        self.constant = self.names.keys() | self.buffers.keys()
        self.values: list[Value] = []
        self.by_weight: dict[str, list[Value]] = {}
        # by id of a tensor that is alive: a reference to it, its version, and its value
        self._current: dict[int, tuple[weakref.ref[Tensor], int, Value]] = {}

    def value(self, tensor: Tensor) -> Value:
        """The tensor's current value; a new one if a view of it has been written to."""
        known = self._current.get(id(tensor))
        if known is None:
            return self._record(tensor, Value())
        _, version, value = known
        if version == _version(tensor):
            return value
        written = Value("write to a view", [value])
        value.users.append(written)
        return self._record(tensor, written)

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func` unchanged and record its results."""
        tensors = list(_tensors([*args, *kwargs.values()]))
        arguments = [self.value(t) for t in tensors if id(t) not in self.constant]
        result = func(*args, **kwargs)
        function = getattr(func, "__name__", str(func))
        strings = [x for x in [*args, *kwargs.values()] if isinstance(x, str)]
        outputs = list(_tensors([args[0] if func is Tensor.__setitem__ else result]))
        for tensor in outputs:
            output = Value(function, arguments, nearest="nearest" in strings)
            if func is LINEAR or func is CONV:
                output.weight = self.names.get(id(Call.of(func, args, kwargs).weight), "")
                self.by_weight.setdefault(output.weight, []).append(output)
            elif func is F.batch_norm:
                given = {**dict(zip(("input", "running_mean"), args, strict=False)), **kwargs}
                output.mean = self.buffers.get(id(given["running_mean"]), "")
            for value in arguments:
                value.users.append(output)
            self._record(tensor, output)
        if not outputs and function in READS:
            for value in arguments:
                value.users.append(Value(function, arguments))
        return result

    def _record(self, tensor: Tensor, value: Value) -> Value:
        key = id(tensor)
        alive = weakref.ref(tensor, lambda _: self._current.pop(key, None))
        self._current[key] = (alive, _version(tensor), value)
        self.values.append(value)
        return value

    def following_norms(self, outputs: Any) -> dict[str, str]:
        """Which BatchNorm takes the output of which weight, unchanged and alone.

        Args:
            outputs: what the model has returned.

        Returns:
            {weight: name of the running mean}, for weights whose every output goes into that
            BatchNorm and nowhere else, where the BatchNorm takes nothing else.
        """
        returned = {id(self.value(tensor)) for tensor in _tensors([outputs])}
        inputs: dict[str, list[Value]] = {}
        for value in self.values:
            if value.mean:
                inputs.setdefault(value.mean, []).extend(value.arguments)
        found = {}
        for weight, values in self.by_weight.items():
            users = [user for value in values for user in value.users]
            means = {user.mean for user in users}
            alone = len(users) == len(values) and not returned & {id(v) for v in values}
            mean = means.pop() if len(means) == 1 else ""
            if weight and mean and alone and set(inputs[mean]) == set(values):
                found[weight] = mean
        return found


def traced(model: nn.Module, example: Tensor) -> tuple[Trace, list[Value]]:
    """The trace of one run of `model` on an example, and the values of the model's outputs.

    `Value.modules` omits modules that no quantizer can be attached to: those that run more than
    once, and `nn.Sequential` containers, which would run it as one more layer.
    """
    trace = Trace(model)
    calls: dict[str, int] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor) and not isinstance(module, nn.Sequential):
                trace.value(output).modules.append(name)

        return hook

    handles = [m.register_forward_hook(record(name)) for name, m in model.named_modules() if name]
    try:
        with torch.no_grad(), trace:
            outputs = model(example)
    finally:
        for handle in handles:
            handle.remove()
    for value in trace.values:
        value.modules = [name for name in value.modules if calls[name] == 1]
    return trace, [trace.value(t) for t in _tensors([outputs])]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """All tensors among the values, also inside of lists, tuples, dictionaries and dataclasses."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _tensors(vars(value).values())


def _version(tensor: Tensor) -> int:
    """How often the memory of a tensor was written to in place."""
    return 0 if tensor.is_inference() else tensor._version
