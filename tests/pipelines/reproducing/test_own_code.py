from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys

import pytest

from pipelines.reproducing import own_code
from pipelines.store import code

METHOD = "from .helper import f\n\ndef quantize(problem, grid):\n    return f(problem)\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's: own_zoo.method and own_zoo.helper."""
    folder = tmp_path / "src" / "own_zoo"
    folder.mkdir(parents=True)
    for name, text in (
        ("__init__", ""),
        ("method", METHOD),
        ("helper", "def f(x):\n    return x\n"),
    ):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder.parent)
    for name in [name for name in sys.modules if name.startswith("own_zoo")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    code.forget()
    yield folder
    code.forget()


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_every_module_of_the_user_is_recorded_with_its_content(package, tmp_path):
    found = own_code.record(["own_zoo.method", "quant.grid", "torch"], tmp_path)
    assert set(found) == {"own_zoo", "own_zoo.method", "own_zoo.helper"}
    sha256 = hashlib.sha256((package / "helper.py").read_bytes()).hexdigest()
    assert found["own_zoo.helper"] == {
        "file": str(package / "helper.py"), "sha256": sha256, "commit": None, "changed": None,
    }  # fmt: skip
    assert not (tmp_path / "own.diff").exists()


def test_in_a_checkout_what_was_changed_is_kept(package, tmp_path):
    git(package, "init", "-q")
    git(package, "add", "-A")
    git(package, "commit", "-qm", "first")
    clean = own_code.record(["own_zoo.method"], tmp_path)
    assert clean["own_zoo.helper"]["changed"] is False and len(clean["own_zoo"]["commit"]) == 40
    (package / "helper.py").write_text("def f(x):\n    return 2 * x\n")
    code.forget()
    found = own_code.record(["own_zoo.method"], tmp_path)
    assert found["own_zoo.helper"]["changed"] and not found["own_zoo.method"]["changed"]
    assert found["own_zoo.helper"]["sha256"] != clean["own_zoo.helper"]["sha256"]
    diff = (tmp_path / "own.diff").read_text()
    assert "+    return 2 * x" in diff and "-    return x" in diff
