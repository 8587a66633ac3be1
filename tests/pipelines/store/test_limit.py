"""OBLIQ_CACHE_LIMIT: what goes when a run has ended, and what stays."""

import os
import time
from dataclasses import dataclass

import pytest
import torch

from pipelines.store import contents, limit, users
from pipelines.store.artifacts import Artifact
from pipelines.store.store import Store

DAY = 86400.0


@dataclass(frozen=True)
class Fill:
    """A tensor of 4000 bytes."""

    value: float

    def run(self) -> Artifact:
        return Artifact({"x": torch.full((1000,), self.value)}, {})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("OBLIQ_CACHE_LIMIT", raising=False)
    return Store(tmp_path / "store")


def fill(store, value, days):
    """Store an artifact that was last used so many days ago; its folder."""
    folder = store.root / "Fill" / store.run(Fill(value)).key
    then = time.time() - days * DAY
    os.utime(folder / "done.json", (then, then))
    return folder


def test_without_a_limit_nothing_goes(store):
    folders = [fill(store, float(n), 100) for n in range(3)]
    limit.enforce(store.root, pytest.fail)
    assert all(folder.exists() for folder in folders)


def test_what_was_used_longest_ago_goes_until_the_rest_fits(store, monkeypatch):
    old, older, new = (fill(store, float(days), days) for days in (5, 9, 1))
    one = sum(item.size for item in contents.scan(store.root)) / 3
    monkeypatch.setenv("OBLIQ_CACHE_LIMIT", f"{2.5 * one:.0f}")
    said = []
    limit.enforce(store.root, said.append)
    assert not older.exists() and old.exists() and new.exists()
    assert len(said) == 1 and "OBLIQ_CACHE_LIMIT=" in said[0]


def test_what_the_run_has_used_itself_stays_and_that_is_said(store, monkeypatch):
    old = fill(store, 1.0, 5)
    monkeypatch.setenv("OBLIQ_CACHE_LIMIT", "1kB")
    said = []
    with users.using(store.root):
        mine = fill(store, 2.0, 0)
        limit.enforce(store.root, said.append)
    assert mine.exists() and not old.exists()
    assert "exceed OBLIQ_CACHE_LIMIT=1 kB" in said[-1]


@pytest.mark.parametrize("text", ["much", "20 gallons", "-5GB", "GB"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch, text):
    monkeypatch.setenv("OBLIQ_CACHE_LIMIT", text)
    with pytest.raises(ValueError, match="OBLIQ_CACHE_LIMIT"):
        limit.limit()


def test_a_run_refuses_a_bad_limit_before_it_begins_and_keeps_to_a_good_one(
    obliq, own_store, tmp_path, monkeypatch
):
    monkeypatch.setenv("OBLIQ_CACHE_LIMIT", "a lot")
    failed = obliq("method=rtn", store=tmp_path / "none")
    assert failed.status == 1 and "OBLIQ_CACHE_LIMIT" in failed.text
    assert not (tmp_path / "none").exists()
    old = fill(Store(own_store), 1.0, 5)
    monkeypatch.setenv("OBLIQ_CACHE_LIMIT", "1kB")
    words = ("method=rtn", "baseline.budget=0", "report.heatmaps=0")
    run = obliq(*words, store=own_store)
    assert run.status == 0 and not old.exists()
    again = obliq(*words, store=own_store)
    first, second = (dict(outcome.results["seconds"], total=0) for outcome in (run, again))
    assert first == second, "all of it came from the store"
