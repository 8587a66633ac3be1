"""The code that results depend on: source followed through imports, libraries by their version.

From the modules that an object names, every import is followed, absolute and relative, at the top
of a file or inside a function, in this project and outside of it. A module that belongs to an
installed distribution (torch, timm, ...) counts by the distribution's version and the checksums of
its Python files as they were installed; one that an object names directly by its own file, too. Of
what a distribution requires, that counts which is compiled: it may compute. Compiled modules count
by their bytes. Comments, docstrings and formatting are not code.

Code is read once in a process, before it is used, so that an edit during a run does not give the
results of the old code the key of the new one.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

OURS = ("quant", "evaluation", "pipelines", "hydra_plugins")  # followed wherever they are installed
SCREEN_ONLY = frozenset({"rich", "tqdm", "psutil", "platformdirs", "filelock"})  # move no result
INSTALLED = frozenset({"site-packages", "dist-packages"})  # folders of libraries
COMPILED = re.compile(r"\.(so|pyd|dylib|dll)(\.[\d.]+)?,", re.IGNORECASE)  # of a line of RECORD


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
    return dict(_closure(frozenset(names)))


def own(names: Iterable[str]) -> dict[str, Path]:
    """Files of the modules in the closure of `names` that are the user's: of no distribution."""
    found = {}
    for name in closure(names):
        top = name.partition(".")[0]
        spec = None if " " in name or top in OURS or _installed(top) else _find(name)
        if spec is not None and spec.origin is not None and os.path.isfile(spec.origin):
            found[name] = Path(spec.origin)
    return found


def forget() -> None:
    """Read code and versions anew from now on."""
    caches = (_closure, _module, _installed, _identity, _required, _compiled)
    for cached in caches:
        cached.cache_clear()


@functools.cache
def _closure(names: frozenset[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    seen: set[str] = set()
    todo = [name for given in sorted(names) for name in _with_parents(given)]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        installed = None if top in OURS else _installed(top)
        if installed is not None:
            if installed not in SCREEN_ONLY:
                for each in (installed, *_required(installed)):
                    found[f"dist {each}"] = _identity(each)
            if name not in names:
                continue
        module = _module(name, installed is None)
        if module is not None:
            found[name] = module.digest
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


@functools.cache
def _installed(top: str) -> str | None:
    """The installed distribution that a top-level package belongs to; None: follow its source."""
    spec = _find(top)
    if spec is None:
        return None
    places = [p for p in (spec.origin, *(spec.submodule_search_locations or ())) if p]
    if not any(INSTALLED & set(Path(p).parts) for p in places):
        return None
    try:
        distribution(top)
        return _normalized(top)
    except (PackageNotFoundError, ValueError):
        return _owner(top, places)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _owner(top: str, places: Iterable[str]) -> str | None:
    """The distribution whose list of installed files has a package: Pillow's has PIL."""
    lines = tuple(f"{start}{top}{end}".encode() for start in ("", "\n") for end in ("/", ".py,"))
    for site in sorted({parent for place in places for parent in Path(place).parents}):
        if site.name not in INSTALLED:
            continue
        for record in sorted(site.glob("*.dist-info/RECORD")):
            text = record.read_bytes()
            if text.startswith(lines[:2]) or any(line in text for line in lines[2:]):
                return _normalized(record.parent.name.partition("-")[0])
    return None


@functools.cache
def _identity(name: str) -> str:
    """Version, and sha256 over the installer's checksums of the Python files, on any platform."""
    found = distribution(name)
    rows = sorted(line for line in _record(found) if ".py,sha256=" in line)
    return f"{found.version} {hashlib.sha256(chr(10).join(rows).encode()).hexdigest()[:16]}"


@functools.cache
def _required(name: str) -> tuple[str, ...]:
    """The compiled distributions among all that `name` requires, and that those require."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        for text in distribution(todo.pop()).requires or ():
            wanted = _normalized(re.split(r"[\s;<>=!~\[(@]", text, maxsplit=1)[0])
            if "extra ==" not in text and wanted not in seen and _is_there(wanted):
                seen.add(wanted)
                todo.append(wanted)
    return tuple(sorted(each for each in seen - SCREEN_ONLY if _compiled(each)))


def _is_there(name: str) -> bool:
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


@functools.cache
def _compiled(name: str) -> bool:
    return any(COMPILED.search(line) for line in _record(distribution(name)))


def _record(found: Distribution) -> list[str]:
    return (found.read_text("RECORD") or "").splitlines()


@functools.cache
def _module(name: str, follow: bool) -> Module | None:
    spec = _find(name)
    return None if spec is None else _read(spec, follow)


def _read(spec: ModuleSpec, follow: bool) -> Module | None:
    """A module's code, from its source; from the bytes of its file where it is not followed."""
    origin = spec.origin
    if origin is None or not os.path.isfile(origin):
        return _from_loader(spec)
    content = Path(origin).read_bytes()
    if not follow or not origin.endswith(".py"):
        return Module(hashlib.sha256(content).hexdigest(), ())
    return parse(content, spec.name, spec.submodule_search_locations is not None)


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
    unused = {id(n) for block in ast.walk(tree) if _for_types(block) for n in ast.walk(block)}
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) not in unused:
            imports |= _imported(node, package)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imports)))


def _for_types(node: ast.AST) -> bool:
    """Whether it is `if TYPE_CHECKING:`, which never runs, without an `else`."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return getattr(node.test, "attr", getattr(node.test, "id", "")) == "TYPE_CHECKING"


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
