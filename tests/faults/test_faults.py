"""A few faults on a short chain; `python -m tests.faults` tries all of them on every stage."""

from __future__ import annotations

import json

import pytest

from pipelines.store.store import _own_checksum as checksum_of
from tests.faults import __main__ as everything
from tests.faults import crowd, damage, kills, stored
from tests.faults.points import Moment
from tests.faults.runs import Runs, untimed
from tests.faults.trials import SMALL, Unbroken


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    runs = Runs(folder / "runs", SMALL)
    yield Unbroken(runs, folder)
    runs.close()


def middle(unbroken, where):
    return Moment(where, unbroken.moments[where] // 2)


def test_killed_three_times_in_a_row_a_run_ends_at_the_same_numbers(unbroken):
    store, sound = unbroken.new_store("killed", "TrainDigits"), {}
    for where in ("Calibrate", "quantize/SolveLayer", "report"):
        killed = unbroken.runs.run(store, at=middle(unbroken, where))
        assert killed.status == -9 and killed.results is None
        there = stored.whole(store)
        assert sound.items() <= there.items(), "what was stored before is computed once"
        assert len(there) > len(sound)
        sound = there
    assert unbroken.wrong(unbroken.runs.run(store), store) == []
    assert sound.items() <= stored.whole(store).items()


def test_damaged_files_are_found_and_only_they_are_computed_again(unbroken):
    stages = ("Calibrate", "SolveLayer", "Sensitivity", "Evaluate", "CorrectStatistics")
    line = damage.artifacts(unbroken, 1, stages)
    assert line.trials == len(stages) and line.wrong == []


def test_four_identical_runs_at_once_share_the_work(unbroken):
    line = crowd.at_once(unbroken)
    assert line.trials == 4 and line.wrong == []


def test_a_run_that_waits_goes_on_when_the_owner_of_the_lock_dies(unbroken):
    line = crowd.dead_owner(unbroken, ["Calibrate"])
    assert line.trials == 1 and line.wrong == []


def test_a_result_that_is_not_the_same_is_noticed(unbroken):
    """An artifact of other numbers with the right checksums: what a store could not find."""
    store = unbroken.new_store("forged", "*")
    folder = next(store.glob("CorrectStatistics/*/"))
    path = folder / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "kl_after": 99.0}))
    done = json.loads((folder / "done.json").read_text())
    done["sha256"]["record.json"] = stored.digest(path)
    del done["own"]
    (folder / "done.json").write_text(json.dumps({**done, "own": checksum_of(done)}))
    ended = unbroken.runs.run(store)
    assert ended.status == 0 and unbroken.wrong(ended, store) == ["other results"]


def test_times_are_not_compared_and_everything_else_is():
    results = {"speedup": 2.0, "layers": [{"seconds": 1, "loss": 3}], "seconds_forward": 4, "kl": 5}
    assert untimed(results) == {"layers": [{"loss": 3}], "kl": 5}


def test_moments_to_be_killed_at_are_everywhere_before_they_are_anywhere_twice(unbroken):
    places = unbroken.moments
    chosen = kills.moments(unbroken, len(places) + 3)
    assert {m.where for m in chosen} == set(places) and len(chosen) == len(places) + 3
    assert all(1 <= m.number <= places[m.where] for m in chosen)
    assert chosen == kills.moments(unbroken, len(places) + 3)


@pytest.mark.long
def test_every_fault_on_every_stage(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tests.faults"])
    assert everything.main() == 0
