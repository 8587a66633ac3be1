"""What a result depends on, as a hash: settings, inputs, and the source of the code behind them.

Comments, docstrings and formatting do not count as source, nor does code that moves no result: what
a run looks like, on which machine it runs, and where results are kept and told.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

NOTHING: frozenset[str] = frozenset()
PACKAGES = ("quant", "evaluation", "pipelines")
OUTSIDE = (
    "pipelines.machine.checkpoint",
    "pipelines.machine.disk",
    "pipelines.machine.launch",
    "pipelines.machine.machine",
    "pipelines.machine.ranks",
    "pipelines.machine.screen",
    "pipelines.machine.trainer",
    "pipelines.reporting",
    "pipelines.store.fingerprint",
    "pipelines.store.store",
    "pipelines.tracking",
)


def describe(value: Any) -> Any:
    """`value` as plain JSON: dataclasses, partials, functions, containers, numbers and text.

    Raises:
        TypeError: something whose content cannot be told, such as an open file.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, functools.partial):
        return {
            "call": describe(value.func),
            "args": describe(value.args),
            "with": describe(value.keywords),
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": describe(type(value)), **fields}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be part of a stage's key")


def modules(value: Any) -> frozenset[str]:
    """The project's modules whose code `value` names, directly or by what it holds."""
    if isinstance(value, Mapping):
        return NOTHING.union(*map(modules, value.values()))
    if isinstance(value, list | tuple):
        return NOTHING.union(*map(modules, value))
    if isinstance(value, functools.partial):
        return modules(value.func) | modules(value.args) | modules(value.keywords)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = (modules(getattr(value, f.name)) for f in dataclasses.fields(value))
        return modules(type(value)).union(*held)
    name = getattr(value, "__module__", None) if callable(value) else None
    return frozenset({name}) if name and name.split(".")[0] in PACKAGES else NOTHING


@cache
def source(module: str) -> tuple[str, frozenset[str]]:
    """The hash of a module's code, and the project's modules that it imports."""
    spec = _spec(module)
    if spec is None or spec.origin is None:
        return "", frozenset()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    ours = {n for n in imported if n.split(".")[0] in PACKAGES and _spec(n)}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(ours)


@cache
def closure(names: frozenset[str]) -> dict[str, str]:
    """Hashes of the modules `names` and of all project modules that they import."""
    seen: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen and not _outside(name):
            seen[name], imported = source(name)
            todo += imported
    return seen


def key(stage: Any, inputs: Iterable[str], tasks: Iterable[type] = ()) -> str:
    """The key of `stage` run on inputs with these keys: 32 hexadecimal digits.

    `tasks`: classes of data sets among the inputs, whose code the stage calls.
    """
    parts = {
        "settings": describe(stage),
        "inputs": list(inputs),
        "source": closure(modules(stage) | modules(list(tasks))),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _outside(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in OUTSIDE)


@cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies, without importing anything; None of a name that is no module."""
    parent, _, _ = name.rpartition(".")
    if not parent:
        return importlib.util.find_spec(name)
    package = _spec(parent)
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, package.submodule_search_locations)


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
