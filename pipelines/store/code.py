"""The code that results depend on: source followed through imports, libraries by their version.

From the modules that an object names, every import is followed, absolute and relative, at the top
of a file or inside a function, in this project and outside of it. A module that belongs to an
installed distribution (torch, timm, ...) counts by the distribution's version and the checksums of
its Python files as they were installed; one that an object names directly by its own file, too.
Compiled modules count by their bytes. Comments, docstrings and formatting are not code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path

OURS = ("quant", "evaluation", "pipelines", "hydra_plugins")  # followed wherever they are installed
SCREEN_ONLY = frozenset({"rich", "tqdm", "psutil", "platformdirs", "filelock"})  # move no result
Stamp = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Module:
    """What one module contributes.

    Attributes:
        digest: sha256 of its code.
        imports: names of the modules that it may import; some may not exist.
    """

    digest: str
    imports: tuple[str, ...]


def closure(names: Iterable[str]) -> dict[str, str]:
    """Everything that the modules `names` can reach by imports.

    Returns:
        {module: sha256 of its code}, {"dist NAME": version and checksum} and {"python": version};
        a module that cannot be found is left out.
    """
    names = sorted(set(names))
    found = {"python": platform.python_version()}
    seen: set[str] = set()
    todo = [name for given in names for name in _with_parents(given)]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        spec = _find(name)
        if spec is None:
            continue
        installed = None if top in OURS else _distribution(top, spec.origin)
        if installed is not None:
            if installed not in SCREEN_ONLY:
                found[f"dist {installed}"] = _identity(installed)
            if name not in names:
                continue
        module = _read(spec)
        if module is not None:
            found[name] = module.digest
        if module is not None and installed is None:
            todo += [part for imported in module.imports for part in _with_parents(imported)]
    return found


def _with_parents(name: str) -> Iterator[str]:
    """a, a.b and a.b.c of a.b.c: importing it runs the packages above, too."""
    parts = name.split(".")
    return (".".join(parts[: n + 1]) for n in range(len(parts)))


def _find(name: str) -> ModuleSpec | None:
    """Where a module comes from, without importing the packages above it."""
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if spec is not None:
        return spec if isinstance(spec, ModuleSpec) else None
    if loaded is not None:  # a script
        file = getattr(loaded, "__file__", None)
        return importlib.util.spec_from_file_location(name, file) if file else None
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(name)
        above = _find(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(name, list(above.submodule_search_locations))
    except (ImportError, AttributeError, ValueError):
        return None


def _distribution(top: str, origin: str | None) -> str | None:
    """The installed distribution that a top-level package belongs to; None: follow its source."""
    if origin is not None and not {"site-packages", "dist-packages"} & set(Path(origin).parts):
        return None
    return _installed(top)


@functools.cache
def _installed(top: str) -> str | None:
    try:
        version(top)
        return top.lower().replace("_", "-")
    except (PackageNotFoundError, ValueError):
        names = _distributions().get(top)
        return names[0].lower().replace("_", "-") if names else None


@functools.cache
def _identity(name: str) -> str:
    """Version, and sha256 over the installer's checksums of the Python files, on any platform."""
    record = distribution(name).read_text("RECORD") or ""
    rows = sorted(line for line in record.splitlines() if ".py,sha256=" in line)
    return f"{version(name)} {hashlib.sha256(chr(10).join(rows).encode()).hexdigest()[:16]}"


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in packages_distributions().items()}


def _read(spec: ModuleSpec) -> Module | None:
    """A module's code, from its source, or else from the bytes of its file."""
    origin = spec.origin
    if origin is None or not os.path.isfile(origin):
        return _from_loader(spec)
    info = os.stat(origin)
    stamp = (origin, info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns)
    return _parsed(stamp, spec.name, spec.submodule_search_locations is not None)


@functools.lru_cache(maxsize=4096)
def _parsed(stamp: Stamp, name: str, is_package: bool) -> Module:
    content = Path(stamp[0]).read_bytes()
    if not stamp[0].endswith(".py"):
        return Module(hashlib.sha256(content).hexdigest(), ())
    return parse(content, name, is_package)


def _from_loader(spec: ModuleSpec) -> Module | None:
    """A module inside an archive; None for namespace packages and what is built in."""
    get_source = getattr(spec.loader, "get_source", None)
    try:
        text = get_source(spec.name) if get_source else None
    except (ImportError, OSError):
        return None
    if text is None:
        return None
    return parse(text.encode(), spec.name, spec.submodule_search_locations is not None)


def parse(source: bytes, name: str, is_package: bool) -> Module:
    """The code of the module `name` and what it imports.

    Raises:
        SyntaxError: it is no Python; it could not have been imported either.
    """
    tree = ast.parse(source)
    imports: set[str] = set()
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        imports |= _imported(node, package)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imports)))


def _imported(node: ast.AST, package: str) -> set[str]:
    """Modules that a statement may import: `from a import b` names a, and perhaps a.b."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        return {base, *(f"{base}.{alias.name}" for alias in node.names)} if base else set()
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        text = node.args[0].value
        if called in ("import_module", "__import__") and isinstance(text, str):
            dots = len(text) - len(text.lstrip("."))
            above = package.split(".")[: len(package.split(".")) - dots + 1] if dots else []
            return {".".join([*above, text.lstrip(".")])}
    return set()


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
