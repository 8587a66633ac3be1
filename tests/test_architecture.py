"""The rules of who may import whom, checked by reading the code."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("quant", "evaluation", "pipelines", "hydra_plugins")
OURS = {"quant", "evaluation", "pipelines", "conf"}


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
