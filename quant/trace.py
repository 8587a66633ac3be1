"""Data flow of one forward pass: which operation produces each tensor and which ones consume it.

Recorded at calls of torch functions and of modules. Nothing is compiled, so any network code works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quant.calls import CONV, LINEAR, Call


@dataclass(eq=False)
class Value:
    """The content of a tensor at one time; an in-place operation gives the tensor a new value.

    Attributes:
        function: name of the function that produced it; "" for a tensor made elsewhere (an input).
        arguments: the values it was computed from, without parameters and buffers.
        users: the values computed from it.
        weight: name of the weight if `linear` or `conv2d` produced it, else "".
        nearest: whether it was produced by nearest-neighbour interpolation.
        modules: names of the modules that return it, innermost first.
    """

    function: str = ""
    arguments: list[Value] = field(default_factory=list)
    users: list[Value] = field(default_factory=list)
    weight: str = ""
    nearest: bool = False
    modules: list[str] = field(default_factory=list)


class Trace(TorchFunctionMode):
    """Records all values while active.

    Attributes:
        by_weight: outputs of `linear` and `conv2d` by the weight's name, in order of use.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.constant = self.names.keys() | {id(b) for b in model.buffers()}
        self.current: dict[int, Value] = {}
        self.all: list[tuple[Tensor, Value]] = []  # keeps the tensors alive: ids stay unique
        self.by_weight: dict[str, list[Value]] = {}

    def value(self, tensor: Tensor) -> Value:
        """The tensor's current value."""
        if id(tensor) not in self.current:
            self._record(tensor, Value())
        return self.current[id(tensor)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func` unchanged and record its results."""
        kwargs = kwargs or {}
        tensors = list(_tensors([*args, *kwargs.values()]))
        arguments = [self.value(t) for t in tensors if id(t) not in self.constant]
        result = func(*args, **kwargs)
        function = getattr(func, "__name__", str(func))
        strings = [x for x in [*args, *kwargs.values()] if isinstance(x, str)]
        for tensor in _tensors([args[0] if func is Tensor.__setitem__ else result]):
            output = Value(function, arguments, nearest="nearest" in strings)
            if func is LINEAR or func is CONV:
                output.weight = self.names.get(id(Call.of(func, args, kwargs).weight), "")
                self.by_weight.setdefault(output.weight, []).append(output)
            for value in arguments:
                value.users.append(output)
            self._record(tensor, output)
        return result

    def _record(self, tensor: Tensor, value: Value) -> None:
        self.current[id(tensor)] = value
        self.all.append((tensor, value))


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
    for _, value in trace.all:
        value.modules = [name for name in value.modules if calls[name] == 1]
    return trace, [trace.value(t) for t in _tensors([outputs])]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """All tensors among the values, including those nested in lists, tuples and dictionaries."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
