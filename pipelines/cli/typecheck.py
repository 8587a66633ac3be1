"""Check resolved settings against the types that their `_target_` declares, before it is called.

Only what can be told from a plain value: whole numbers, numbers, true or false, text, and null.
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
    """Compare all values below `settings` that belong to a `_target_`.

    Raises:
        ValueError: a value is of another type than its class or function declares.
    """
    declared = sorted(_declared(settings, ""), key=lambda found: (found[0].count("."), found[0]))
    for path, value, kinds in declared:  # method.block before quantize.solve.method.block
        if not any(_fits(value, kind) for kind in kinds):
            key = path.rsplit(".", 1)[-1]
            given = (w for w, v in settings.items() if w.endswith(key) and v == value)
            name = next(given, path)  # bits, not precision.bits; act_bits, not activations.bits
            wanted = " or ".join(WORDS[kind] for kind in kinds)
            plain = isinstance(value, int | float) and str in kinds  # read as a number, or as true
            quotes = f". For text, type {typed(f'{name}={text(str(value))}')}" if plain else ""
            raise ValueError(f"{name}={value!r} must be {wanted}{quotes}")


def complete(settings: Mapping[str, Any], stages: type) -> None:
    """Every field of the dataclass `stages` that cannot be None is set.

    Raises:
        ValueError: one of them is null.
    """
    hints = typing.get_type_hints(stages)
    optional = [name for name in hints if type(None) in typing.get_args(hints[name])]
    for name in hints:
        if settings[name] is None and name not in optional:
            raise ValueError(
                f"{name}=null: a run cannot do without it. Null may be {' and '.join(optional)}"
            )


def _declared(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, tuple[type, ...]]]:
    """(path, value, allowed types) of the values whose types are plain ones."""
    hints = _hints(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        kinds = _kinds(hints.get(key))
        if kinds:
            yield where, value, kinds
        elif isinstance(value, Mapping):
            yield from _declared(value, where)


def _hints(target: str) -> dict[str, Any]:
    """Declared types of the parameters of a class or function; none where they cannot be read."""
    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
        plain = isinstance(made, type) and not dataclasses.is_dataclass(made)
        return typing.get_type_hints(getattr(made, "__init__") if plain else made)  # noqa: B009
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return {}  # instantiate says what is wrong with the target


def _kinds(hint: Any) -> tuple[type, ...]:
    """The plain types that `hint` allows; none if it allows anything else."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if union else (hint,)
    return tuple(kinds) if all(kind in WORDS for kind in kinds) else ()


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
