"""What becomes of the tensors of a network in one run: which operation makes and which takes them.

Seen at the calls of torch's functions and of modules; nothing is compiled, and no code of the
network has to be of a kind.
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
    """What a tensor holds at one time; overwritten in place, the tensor has another value.

    Attributes:
        function: that made it; "" for what comes from outside.
        arguments: the values that it was made of; parameters and buffers do not count.
        users: the values made of it.
        weight: name of the parameter, where `linear` or `conv2d` made it with one.
        nearest: whether it was interpolated by taking the nearest value.
        modules: those that return it, the innermost first.
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
        by_weight: values that `linear` or `conv2d` made, by the weight's name, in order of use.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.constant = self.names.keys() | {id(b) for b in model.buffers()}
        self.now: dict[int, Value] = {}
        self.all: list[tuple[Tensor, Value]] = []  # no other tensor gets the id of one of them
        self.by_weight: dict[str, list[Value]] = {}

    def value(self, tensor: Tensor) -> Value:
        """What the tensor holds now."""
        if id(tensor) not in self.now:
            self._put(tensor, Value())
        return self.now[id(tensor)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func` as it is, and note what it makes."""
        kwargs = kwargs or {}
        tensors = list(_tensors([*args, *kwargs.values()]))
        given = [self.value(t) for t in tensors if id(t) not in self.constant]
        result = func(*args, **kwargs)
        function = getattr(func, "__name__", str(func))
        words = [x for x in [*args, *kwargs.values()] if isinstance(x, str)]
        for tensor in _tensors([args[0] if func is Tensor.__setitem__ else result]):
            made = Value(function, given, nearest="nearest" in words)
            if func is LINEAR or func is CONV:
                made.weight = self.names.get(id(Call.of(func, args, kwargs).weight), "")
                self.by_weight.setdefault(made.weight, []).append(made)
            for value in given:
                value.users.append(made)
            self._put(tensor, made)
        return result

    def _put(self, tensor: Tensor, value: Value) -> None:
        self.now[id(tensor)] = value
        self.all.append((tensor, value))


def traced(model: nn.Module, example: Tensor) -> tuple[Trace, list[Value]]:
    """One run of `model` on an example, and the values that it gives.

    A module that runs more than once, or that runs its parts one after the other by their place
    among its own (`Sequential`), is not among a value's modules: nothing can be put behind it.
    """
    trace = Trace(model)
    calls: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor) and not isinstance(module, nn.Sequential):
                trace.value(output).modules.append(name)

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules() if name]
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
    """The tensors among the values, and inside lists, tuples and dictionaries among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
