"""Every change of one setting, however deep it lies: (where, the changed value)."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any


def another(*args: Any, **kwargs: Any) -> None:
    """Takes the place of any function."""


def changes(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """All of them; the value itself stays as it is."""
    if isinstance(value, bool):
        yield where, not value
    elif isinstance(value, int):
        yield where, value + 1
    elif isinstance(value, float):
        yield where, 1.5 * value + 0.1
    elif isinstance(value, str):
        yield where, f"{value}x"
    elif value is None:
        yield where, 1
    elif isinstance(value, PurePath):
        yield where, value / "x"
    elif isinstance(value, list | tuple):
        kind = type(value)
        yield f"{where}[]", kind([*value, 0])
        for number, part in enumerate(value):
            for inner, other in changes(part, f"{where}[{number}]"):
                yield inner, kind([*value[:number], other, *value[number + 1 :]])
    elif isinstance(value, Mapping):
        yield f"{where}.+", {**value, "another": 0}
        for name, part in value.items():
            for inner, other in changes(part, f"{where}.{name}"):
                yield inner, {**value, name: other}
    elif isinstance(value, functools.partial):
        yield f"{where}()", functools.partial(another, *value.args, **value.keywords)
        for inner, other in changes(value.keywords, where):
            yield inner, functools.partial(value.func, *value.args, **other)
    elif isinstance(value, types.FunctionType):
        yield where, another
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            for inner, other in changes(getattr(value, field.name), f"{where}.{field.name}"):
                yield inner, changed(value, field.name, other)
    else:
        raise TypeError(f"{where} is a {type(value).__name__}: tests.mutations cannot change it")


def changed(value: Any, field: str, other: Any) -> Any:
    """A copy of a dataclass with another value, which nothing checks."""
    made = copy.copy(value)
    object.__setattr__(made, field, other)
    return made
