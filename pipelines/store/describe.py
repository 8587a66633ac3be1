"""What a value is, as JSON: its content, not its place in memory; and the modules it comes from.

Whatever may decide a result goes in: settings of dataclasses, what closures, partials and bound
methods hold, attributes and tensors of modules, functions and classes by name (their code is
`store.code`'s part). What has no content that can be told is an error, never a guess. A field of a
dataclass that moves no result says so: `field(metadata={"key": False})`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Json = Any
CONTAINERS = (Mapping, list, tuple, AbstractSet)
PLAIN = (dict, list, tuple, set, frozenset)
HOOKS = re.compile(r"^_(forward|backward|forward_pre|backward_pre)_hooks$")
INTERNAL = re.compile(r"^_(parameters|buffers|modules|non_persistent_buffers_set|.*_hooks.*)$")


class UntellableError(TypeError):
    """A value whose content cannot be told, such as an open file."""


class Description:
    """One walk through a value.

    Attributes:
        modules: names of the modules whose code the value uses, found on the way.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._open: dict[int, int] = {}  # ids of the values that are being described, by depth

    def of(self, value: Any) -> Json:
        """`value` as JSON.

        Raises:
            UntellableError: its content cannot be told.
        """
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return repr(value)  # NaN and infinities are no JSON
        if id(value) in self._open:
            return ["above", self._open[id(value)]]
        self._open[id(value)] = len(self._open)
        try:
            return self._composed(value)
        finally:
            del self._open[id(value)]

    def _composed(self, value: Any) -> Json:
        for kinds, describe in self._kinds():
            if isinstance(value, kinds):
                found = describe(value)
                return [found, *self._beside(value)] if isinstance(value, CONTAINERS) else found
        if dataclasses.is_dataclass(value):
            kept = (f for f in dataclasses.fields(value) if f.metadata.get("key", True))
            fields = {f.name: getattr(value, f.name) for f in kept}
            return [self._type(type(value)), self._mapping(fields)]
        if callable(value) and hasattr(value, "__qualname__") and hasattr(value, "__module__"):
            return self._named(value)
        return self._object(value)

    def _kinds(self) -> list[tuple[Any, Callable[[Any], Json]]]:
        return [
            (enum.Enum, lambda x: [self._type(type(x)), x.name]),
            (PurePath, lambda x: ["path", str(x)]),
            (bytes | bytearray, lambda x: ["bytes", hashlib.sha256(x).hexdigest()]),
            (complex, repr),
            (Mapping, self._mapping),
            (list | tuple, lambda x: [type(x).__name__, *map(self.of, x)]),
            (AbstractSet, self._set),
            (functools.partial, self._partial),
            (types.MethodType, lambda x: ["method", x.__func__.__qualname__, self.of(x.__self__)]),
            (types.FunctionType, self._function),
            (type, self._type),
            (types.ModuleType, lambda x: self._module(x.__name__)),
            (re.Pattern, lambda x: ["pattern", x.pattern, x.flags]),
            (nn.Module, self._network),
            (Tensor, tensor_digest),
            (torch.Generator, lambda x: ["generator", tensor_digest(x.get_state())]),
            (torch.dtype | torch.device | torch.Size, lambda x: [type(x).__name__, str(x)]),
            (np.ndarray | np.generic, _array),
            (np.random.Generator, lambda x: self.of(x.bit_generator.state)),
        ]

    def _beside(self, value: Any) -> list[Json]:
        """Class and attributes of what is a container and more."""
        if type(value) in PLAIN:
            return []
        return [self._type(type(value)), self._mapping(getattr(value, "__dict__", {}))]

    def _mapping(self, value: Mapping[Any, Any]) -> Json:
        """Sorted by key: the order of settings is not a setting."""
        rows = [[self.of(key), self.of(item)] for key, item in value.items()]
        return ["mapping", *sorted(rows, key=lambda row: json.dumps(row[0]))]

    def _set(self, value: AbstractSet[Any]) -> Json:
        return ["set", *sorted(map(self.of, value), key=json.dumps)]

    def _partial(self, value: functools.partial[Any]) -> Json:
        return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]

    def _function(self, function: types.FunctionType) -> Json:
        """By name, with what it holds: defaults, and the variables that it closes over."""
        home = self._module(str(function.__globals__.get("__name__", function.__module__)))
        cells = function.__closure__ or ()
        held = {
            name: self._cell(cell)
            for name, cell in zip(function.__code__.co_freevars, cells, strict=True)
        }
        wrapped = getattr(function, "__wrapped__", None)
        return [
            "function",
            home,
            function.__qualname__,
            self._code(function) if self._needs_code(function) else None,
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            ["mapping", *sorted(held.items())],
            None if wrapped is None else self.of(wrapped),
        ]

    def _cell(self, cell: types.CellType) -> Json:
        try:
            return self.of(cell.cell_contents)
        except ValueError:  # not filled yet
            return "empty"

    def _needs_code(self, function: types.FunctionType) -> bool:
        """Lambdas share their name, and what was typed at a prompt is in no file."""
        return function.__name__ == "<lambda>" or not Path(function.__code__.co_filename).is_file()

    def _code(self, function: types.FunctionType) -> Json:
        """Bytecode, and the global variables that it names."""
        names = set(_names(function.__code__)) & set(function.__globals__)
        used = {name: self.of(function.__globals__[name]) for name in sorted(names)}
        return [_bytecode(function.__code__), used]

    def _type(self, kind: type) -> Json:
        for base in kind.__mro__:
            self._module(base.__module__)
        known = [kind.__module__, kind.__qualname__]
        return ["class", *known, self._methods(kind)]

    def _methods(self, kind: type) -> Json:
        """Of a class that is in no file."""
        if kind.__module__ != "__main__" or hasattr(sys.modules["__main__"], "__file__"):
            return None
        functions = {k: v for k, v in vars(kind).items() if isinstance(v, types.FunctionType)}
        return {name: self.of(function) for name, function in sorted(functions.items())}

    def _named(self, value: Any) -> Json:
        """A built-in function, or another callable that has a name."""
        return ["callable", self._module(str(value.__module__)), value.__qualname__]

    def _module(self, name: str) -> str:
        self.modules.add(name)
        return name

    def _network(self, network: nn.Module) -> Json:
        """Class, attributes, hooks, tensors and children."""
        attributes = {k: v for k, v in vars(network).items() if not INTERNAL.search(k)}
        hooks = {k: list(v.values()) for k, v in vars(network).items() if HOOKS.search(k) and v}
        tensors = {**network._parameters, **network._buffers}
        return [
            self._type(type(network)),
            self._mapping(attributes),
            self._mapping(hooks),
            self._mapping(tensors),
            ["children", *([name, self.of(child)] for name, child in network._modules.items())],
        ]

    def _object(self, value: Any) -> Json:
        """Any other object: its attributes, or what pickle would keep of it."""
        slots = [
            name
            for kind in type(value).__mro__
            for name in _as_list(getattr(kind, "__slots__", ()))
            if hasattr(value, name) and name not in ("__dict__", "__weakref__")
        ]
        try:
            reduced = value.__reduce_ex__(2)  # fails for what lives outside of Python: files, locks
        except Exception as err:
            raise UntellableError(
                f"{value!r} of type {type(value).__qualname__} has no content that can be told: "
                f"no result can be stored for it ({err})"
            ) from err
        if not slots and not hasattr(value, "__dict__"):
            return [self._type(type(value)), self.of(reduced)]
        state = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
        return [self._type(type(value)), self._mapping(state)]


def _as_list(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _bytecode(code: types.CodeType) -> str:
    """sha256 of what a function does, wherever it stands."""
    parts = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    text = json.dumps([code.co_code.hex(), parts, code.co_names, code.co_varnames])
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> Json:
    """dtype, shape, and sha256 of the bytes."""
    plain = tensor.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy()
    return [
        "tensor",
        str(plain.dtype),
        list(plain.shape),
        hashlib.sha256(data).hexdigest(),  # type: ignore[arg-type]
    ]


def _array(array: np.ndarray[Any, Any] | np.generic) -> Json:
    plain = np.ascontiguousarray(array)
    if plain.dtype.hasobject:
        raise UntellableError(f"an array of objects {plain.shape} has no content that can be told")
    return [
        "array",
        str(plain.dtype),
        list(plain.shape),
        hashlib.sha256(plain.tobytes()).hexdigest(),
    ]
