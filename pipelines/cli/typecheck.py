"""Check resolved settings against the type annotations of their `_target_` before it is called.

Only plain types are checked: int, float, bool, str and None.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.cli.quoting import text, typed

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def check(settings: Mapping[str, Any]) -> None:
    """Check all values in `settings` that are arguments of a `_target_`.

    Raises:
        ValueError: a value does not have the type that its class or function declares.
    """
    declared = sorted(_declared(settings, ""), key=lambda item: (item[0].count("."), item[0]))
    for path, value, kinds in declared:  # method.block before quantize.solve.method.block
        if not any(_fits(value, kind) for kind in kinds):
            key = path.rsplit(".", 1)[-1]
            shorter = (w for w, v in settings.items() if w.endswith(key) and v == value)
            name = next(shorter, path)  # bits, not precision.bits; act_bits, not activations.bits
            expected = " or ".join(WORDS[kind] for kind in kinds)
            unquoted = isinstance(value, int | float) and str in kinds
            quotes = f". For text, type {typed(f'{name}={text(str(value))}')}" if unquoted else ""
            raise ValueError(f"{name}={value!r} must be {expected}{quotes}")


def complete(settings: Mapping[str, Any], stages: type) -> None:
    """Check that every field of the dataclass `stages` is set, unless it may be None.

    Raises:
        ValueError: a mandatory field is null.
    """
    hints = typing.get_type_hints(stages)
    optional = [name for name in hints if type(None) in typing.get_args(hints[name])]
    for name in hints:
        if settings[name] is None and name not in optional:
            raise ValueError(
                f"{name}=null: a run needs it. Only these may be null: {', '.join(optional)}"
            )


def _declared(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, tuple[type, ...]]]:
    """(path, value, allowed types) of every value with plain types."""
    hints = _hints(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        kinds = _kinds(hints.get(key))
        if kinds:
            yield where, value, kinds
        elif isinstance(value, Mapping):
            yield from _declared(value, where)


def _hints(target: str) -> dict[str, Any]:
    """Type annotations of the parameters of a class or function; empty if they cannot be read."""
    module, _, name = target.rpartition(".")
    try:
        callee = getattr(importlib.import_module(module), name)
        plain = isinstance(callee, type) and not dataclasses.is_dataclass(callee)
        return typing.get_type_hints(getattr(callee, "__init__") if plain else callee)  # noqa: B009
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return {}  # instantiate reports what is wrong with the target


def _kinds(hint: Any) -> tuple[type, ...]:
    """The plain types that `hint` allows; empty if it allows any other type."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if union else (hint,)
    return tuple(kinds) if all(kind in WORDS for kind in kinds) else ()


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
