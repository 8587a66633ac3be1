"""The rules of who may import whom, checked by reading the code."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("quant", "evaluation", "pipelines", "hydra_plugins")
OURS = {"quant", "evaluation", "pipelines", "conf"}

# The rooms of the house, from the ground up: a room imports from the floors below its own only.
FLOORS = (
    ("quant", "evaluation", "cli"),
    ("machine",),
    ("onnx", "store"),
    ("reporting",),
    ("tracking", "models", "comparing", "exporting"),
    ("stages", "sweeps", "reproducing"),
    ("chain", "preflight"),
    ("quantizing",),
    ("evaluating",),
    ("ptq",),
    ("run",),
    ("interface",),
    ("__main__",),
)
FLAT = {"__init__", "__main__", "chain", "evaluating", "preflight", "ptq", "quantizing", "run"}


def files(*folders):
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found, folders
    return found


def imports(source):
    """Top-level packages that a source imports anywhere, also by name in import_module(...)."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            packages.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                packages.add(str(first.value).split(".")[0])
    return packages


def modules_imported(source):
    """Dotted names that a source imports, with what it takes from each: a.b and a.b.c."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module):
    """Where a module lives: "store" of pipelines.store.gc, "quant" of quant.grid, else None."""
    package, *rest = module.split(".")
    if package == "pipelines":
        return rest[0] if rest else None
    return package if package in OURS else None


def upwards(sources):
    """(module, imported) for imports that do not go down the house.

    Args:
        sources: of all modules, by dotted name.
    """
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    found = []
    for module, source in sources.items():
        here = room(module)
        for name in sorted(modules_imported(source)):
            there = room(name)
            if there in floor and here in floor and here != there and floor[there] >= floor[here]:
                found.append((module, name))
    return found


def importers(package, paths):
    return {str(path.relative_to(ROOT)) for path in paths if package in imports(path.read_text())}


def parameters_named(source, name):
    """Functions and fields of a source that take something called `name`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            a = node.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            if any(x is not None and x.arg == name for x in every):
                found.append(getattr(node, "name", "lambda"))
        elif isinstance(node, ast.ClassDef):
            fields = [x.target for x in node.body if isinstance(x, ast.AnnAssign)]
            if any(isinstance(x, ast.Name) and x.id == name for x in fields):
                found.append(node.name)
    return found


def test_the_reader_of_imports_sees_every_way_to_import():
    source = "import a.b, c\ndef f():\n    from d.e import g\n    importlib.import_module('h.i')\n"
    assert imports(source) == {"a", "c", "d", "h"}
    assert parameters_named("def f(*, cfg=1): ...\nclass C:\n    cfg: int\n", "cfg") == ["f", "C"]


@pytest.mark.parametrize("path", files("quant"), ids=lambda p: str(p.relative_to(ROOT)))
def test_quant_imports_only_mathematics_and_itself(path):
    allowed = {"torch", "numpy", "scipy", "pyscipopt", "quant"} | sys.stdlib_module_names
    assert imports(path.read_text()) <= allowed


def test_evaluation_imports_neither_quant_nor_pipelines_nor_conf():
    for other in OURS - {"evaluation"}:
        assert importers(other, files("evaluation")) == set()


def test_nothing_imports_conf_and_no_code_imports_the_tests():
    for other in ("conf", "tests", "reference", "conftest", "pytest"):
        assert importers(other, files(*FOLDERS)) == set()


@pytest.mark.parametrize("package", ["hydra", "omegaconf"])
def test_hydra_is_imported_by_the_entry_and_by_plugins_of_hydra_only(package):
    plugins = {str(path.relative_to(ROOT)) for path in files("hydra_plugins")}
    assert importers(package, files(*FOLDERS)) <= {"pipelines/run.py"} | plugins
    assert "pipelines/run.py" in importers("hydra", files("pipelines"))


def test_wandb_is_imported_in_one_file_only():
    assert importers("wandb", files(*FOLDERS)) == {"pipelines/tracking/wandb_tracker.py"}


def test_the_time_is_asked_in_one_file_only():
    paths = files(*FOLDERS)
    files_clock = "evaluation/content_index.py"  # compares it with the times of files
    assert importers("time", paths) == {"pipelines/machine/clock.py", files_clock}
    dates = [p for p in paths if re.search(r"date(time)?\.(now|today|utcnow)\(", p.read_text())]
    assert dates == []


def test_no_function_outside_the_entry_takes_a_cfg():
    found = {
        str(path.relative_to(ROOT)): names
        for path in files(*FOLDERS)
        if path != ROOT / "pipelines" / "run.py"
        for names in [parameters_named(path.read_text(), "cfg")]
        if names
    }
    assert found == {}


def test_no_file_is_named_after_nothing_in_particular():
    vague = {"utils", "helpers", "common", "base", "util", "helper", "misc"}
    names = [p for p in files(*FOLDERS, "tests") if p.stem in vague]
    folders = [p for f in (*FOLDERS, "tests") for p in (ROOT / f).rglob("*/") if p.name in vague]
    assert names == [] and folders == []


def test_the_reference_mathematics_imports_nothing_of_ours():
    assert imports((ROOT / "tests" / "reference.py").read_text()) & OURS == set()


def test_imports_in_the_house_go_down_and_never_up():
    sources = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for path in files("quant", "evaluation", "pipelines")
    }
    rooms = {room(name) for name in sources} - {None, "__init__"}
    assert rooms == {name for floor in FLOORS for name in floor}, "every room has its floor"
    assert upwards(sources) == []


def test_an_import_upwards_or_across_is_seen():
    sources = {
        "pipelines.store.gc": "from pipelines.stages.solving import solve\n",
        "pipelines.models.timm": "def f():\n    from pipelines import tracking\n",
        "pipelines.run": "import pipelines.ptq\nfrom pipelines.store import gc\n",
    }
    assert upwards(sources) == [
        ("pipelines.store.gc", "pipelines.stages.solving.solve"),
        ("pipelines.models.timm", "pipelines.tracking"),
    ]


def test_only_the_chain_itself_lies_flat_in_pipelines():
    assert {path.stem for path in (ROOT / "pipelines").glob("*.py")} == FLAT


def test_every_wing_says_what_it_is_for():
    wings = {path.parent for path in files("pipelines")}
    silent = [str(w.relative_to(ROOT)) for w in wings if not _docstring(w / "__init__.py")]
    assert silent == []


def _docstring(path):
    return path.is_file() and ast.get_docstring(ast.parse(path.read_text()))


def test_tests_lie_where_what_they_test_lies():
    """tests/pipelines/store/ tests pipelines/store/; whole runs lie flat in tests/pipelines/."""
    for package in ("quant", "evaluation", "pipelines"):
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            assert (ROOT / path.parent.relative_to(ROOT / "tests")).is_dir(), path
