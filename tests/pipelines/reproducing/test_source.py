"""Code as it ran: commit, and what was changed since."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tomllib

import pytest

from pipelines.reproducing import source
from tests.waiting import PATIENCE

SECRET = "5ec2e7" * 7


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Git may take as long as a busy machine makes it."""
    monkeypatch.setattr(source, "SECONDS", PATIENCE)


def git(root, *words):
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}  # nothing of the user
    told = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words],
        cwd=root, env={**os.environ, **own}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return told.stdout


def test_code_is_looked_for_wherever_the_package_has_some():
    found = tomllib.loads((source.ROOT / "pyproject.toml").read_text())
    packages = found["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(source.CODE) == sorted(name.rstrip("*") for name in packages)


@pytest.fixture
def checkout(tmp_path):
    """A repository with two files of code, committed, and an empty output folder."""
    root, out = tmp_path / "code", tmp_path / "out"
    for folder in ("pipelines", "quant"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").write_text("a = 1\n")
    out.mkdir()
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root, out


def test_a_clean_checkout_is_its_commit_and_nothing_else(checkout):
    root, out = checkout
    (out / "source.diff").write_text("of an earlier run")
    found = source.record(out, root)
    assert found["commit"] == git(root, "rev-parse", "HEAD").strip()
    assert (found["dirty"], found["diff"], found["untracked"]) == (False, None, [])
    assert list(out.iterdir()) == []


def test_changes_are_kept_so_that_the_code_can_be_had_again(checkout, tmp_path):
    root, out = checkout
    (root / "quant" / "__init__.py").write_text("a = 2  # né\n")
    (root / "pipelines" / "new.py").write_text("staged = True\n")
    git(root, "add", "pipelines/new.py")
    found = source.record(out, root)
    assert found["dirty"] and found["diff"] == "source.diff" and found["diff_complete"]
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(root), str(other))
    git(other, "apply", str(out / "source.diff"))
    assert (other / "quant" / "__init__.py").read_text() == "a = 2  # né\n"
    assert (other / "pipelines" / "new.py").read_text() == "staged = True\n"
    digest = hashlib.sha256((out / "source.diff").read_bytes()).hexdigest()
    assert found["diff_sha256"] == digest


def test_of_files_outside_of_git_only_names_are_kept_and_only_of_code(checkout):
    root, out = checkout
    (root / "quant" / "mine.py").write_text("private = 'thought'\n")
    (root / "letter.txt").write_text("private thought")
    (root / "quant" / "__init__.py").write_text("a = 2\n")
    found = source.record(out, root)
    assert found["untracked"] == ["quant/mine.py"]
    assert "private" not in (out / "source.diff").read_text()


def test_a_key_of_the_environment_does_not_get_into_the_changes(checkout, monkeypatch):
    root, out = checkout
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    (root / "quant" / "__init__.py").write_text(f"key = '{SECRET}'\n")
    source.record(out, root)
    text = (out / "source.diff").read_text()
    assert SECRET not in text and "+key = '[removed]'" in text


def test_large_changes_are_cut_off_and_said_to_be(checkout, monkeypatch):
    root, out = checkout
    monkeypatch.setattr(source, "LIMIT", 2000)
    (root / "quant" / "__init__.py").write_text("".join(f"line = {i}\n" for i in range(2000)))
    found = source.record(out, root)
    text = (out / "source.diff").read_text()
    assert found["diff_complete"] is False and len(text) < 2100
    assert text.splitlines()[-1].startswith("# cut off: ")
    assert text.splitlines()[-2].startswith("+line = ")


def test_code_that_is_not_in_git_has_no_commit(checkout, tmp_path):
    root, out = checkout
    packages = root / "site-packages" / "pipelines"  # installed below somebody else's repository
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text("")
    nothing = {"commit": None, "dirty": None, "diff": None, "untracked": []}
    assert source.record(out, packages.parent) == nothing
    assert source.record(out, tmp_path / "out") == nothing


def test_a_folder_that_cannot_be_written_is_not_told_here(checkout, tmp_path):
    root, _ = checkout
    (root / "quant" / "__init__.py").write_text("a = 2\n")
    (tmp_path / "file").write_text("")
    found = source.record(tmp_path / "file", root)
    assert found["dirty"] and found["diff"] is None and found["diff_sha256"]


def test_no_git_is_no_error(checkout, monkeypatch):
    root, out = checkout
    monkeypatch.setenv("PATH", "")
    assert source.record(out, root)["commit"] is None


def test_git_that_does_not_answer_is_no_error(checkout, monkeypatch):
    root, out = checkout

    def slow(command, timeout, **others):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", slow)
    assert source.record(out, root)["commit"] is None


def test_a_repository_that_the_environment_names_does_not_count(checkout, tmp_path, monkeypatch):
    root, out = checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert source.record(out, root)["dirty"] is False
