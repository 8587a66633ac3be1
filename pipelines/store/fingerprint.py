"""Store keys: a hash of a stage's settings, its inputs, and the source code behind them.

Comments, docstrings and formatting do not count as source. Neither does code that changes no
result: display, machine, store, reporting and tracking.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

NOTHING: frozenset[str] = frozenset()
PACKAGES = ("quant", "evaluation", "pipelines")
INSTALLED = {"site-packages", "dist-packages"}  # folders of libraries, whose code does not count
OUTSIDE = (
    "pipelines.machine.checkpoint",
    "pipelines.machine.clock",
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
    """`value` as plain JSON: dataclasses, partials, functions, containers, numbers and strings.

    Raises:
        TypeError: `value` has no such description, like an open file.
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
    """The project's modules that define the classes and functions in `value`, at any depth."""
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
    return frozenset({name}) if name and _counts(name) else NOTHING


@cache
def source(module: str) -> tuple[str, frozenset[str]]:
    """Hash of a module's code, and the project's modules that it imports."""
    spec = _spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
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
    ours = {n for n in imported if _counts(n) and _spec(n)}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(ours)


@cache
def closure(names: frozenset[str]) -> dict[str, str]:
    """Hashes of the modules `names` and of all counting modules that they import."""
    seen: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen and not _outside(name):
            seen[name], imported = source(name)
            todo += imported
    return seen


def key(stage: Any, inputs: Iterable[str], classes: Iterable[type] = ()) -> str:
    """The key of `stage` on inputs with these keys: 32 hexadecimal digits.

    Args:
        stage: its settings and its code count.
        inputs: their keys.
        classes: of inputs whose keys do not cover their code.
    """
    parts = {
        "settings": describe(stage),
        "inputs": list(inputs),
        "source": closure(modules(stage) | modules(list(classes))),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _outside(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in OUTSIDE)


def _counts(module: str) -> bool:
    package = module.split(".")[0]
    return package in PACKAGES or _is_own(package)


@cache
def _is_own(package: str) -> bool:
    """Whether a package is the user's: neither Python's nor an installed library."""
    if package in sys.stdlib_module_names or package == "__main__":
        return False
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    folders = [Path(place).parts for place in places if place]
    return bool(folders) and not any(INSTALLED & set(parts) for parts in folders)


@cache
def _spec(name: str) -> ModuleSpec | None:
    """Spec of a module, found without importing anything; None if there is no such module."""
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
