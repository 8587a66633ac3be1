from __future__ import annotations

import errno
import fcntl
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch

import pipelines.store.store
from pipelines.store import fingerprint
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import LockedError, Store, _clear
from tests.waiting import PATIENCE, until

runs: list[str] = []


@dataclass(frozen=True)
class Double:
    """Counts how often it is run."""

    factor: float
    options: Mapping[str, int]

    def run(self, number: Keyed[float], machine: Keyed[object]) -> Artifact:
        runs.append("Double")
        return Artifact({"x": torch.full((64,), self.factor * number.value)}, {"by": self.factor})


@pytest.fixture(autouse=True)
def count():
    runs.clear()


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    return Store(tmp_path / "store", said.append)


def double(store, factor=2.0, number=3.0, machine=None, **options):
    stage = Double(factor, options)
    return store.run(stage, Keyed(number, f"n{number}"), Keyed(machine, ""))


def test_the_same_settings_and_inputs_are_computed_once(store):
    first, second = double(store, a=1, b=2), double(store, b=2, a=1)
    assert (first.cached, second.cached, len(runs)) == (False, True, 1)
    assert first.key == second.key and second.seconds == first.seconds > 0
    assert torch.equal(second.tensors["x"], torch.full((64,), 6.0)) and second.record == {"by": 2.0}


@pytest.mark.parametrize("change", [{"factor": 2.5}, {"number": 4.0}, {"option": 1}])
def test_another_setting_or_input_is_computed_anew(store, change):
    first, second = double(store), double(store, **change)
    assert not second.cached and first.key != second.key
    assert double(store).cached, "what was stored before must stay"


def test_an_input_without_a_key_changes_nothing(store):
    double(store, machine="a laptop")
    assert double(store, machine="a cluster").cached


def folder_of(store, artifact):
    return store.root / "Double" / artifact.key


def truncate(folder):
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(folder):
    path = folder / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def rewrite(path, **entries):
    """As flipped bits may, with the rest as it was; a changed name leaves no `own`."""
    done = json.loads(path.read_text())
    if not entries.keys() <= done.keys():
        del done["own"]
    path.write_text(json.dumps({**done, **entries}))


DAMAGES = {
    "truncated tensors": truncate,
    "one bit of the tensors": flip_a_bit,
    "another record": write("record.json", '{"by": 3.0}'),
    "no record": lambda folder: (folder / "record.json").unlink(),
    "no tensors": lambda folder: (folder / "tensors.safetensors").unlink(),
    "garbage in done.json": write("done.json", "\x00garbage"),
    "empty done.json": write("done.json", ""),
    "done.json of another kind": write("done.json", "[1, 2]"),
    "other seconds in done.json": lambda folder: rewrite(folder / "done.json", seconds=9.0),
    "other inputs in done.json": lambda folder: rewrite(folder / "done.json", inputs=["a" * 32]),
    "an unknown entry in done.json": lambda folder: rewrite(folder / "done.json", owm="b" * 64),
    "done.json without checksums": write("done.json", '{"sha256": {}, "seconds": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_result_is_told_once_and_computed_again(store, said, damage):
    first = double(store)
    damage(folder_of(store, first))
    second = double(store)
    assert not second.cached and torch.equal(second.tensors["x"], torch.full((64,), 6.0))
    assert len(said) == 1 and "damaged" in said[0] and "computing it again" in said[0]
    assert double(store).cached and len(said) == 1


def test_files_that_are_taken_away_while_they_are_read_are_computed_again(store, monkeypatch):
    first, checksum = double(store), pipelines.store.store.checksum

    def vanishing(path):
        (folder_of(store, first) / "record.json").unlink(missing_ok=True)
        return checksum(path)

    monkeypatch.setattr(pipelines.store.store, "checksum", vanishing)
    store._load(folder_of(store, first), first.key)
    monkeypatch.undo()
    second = double(store)
    assert not second.cached and torch.equal(second.tensors["x"], torch.full((64,), 6.0))


def test_who_reads_an_artifact_finds_it_while_it_is_replaced(store, monkeypatch):
    """A damaged record: its tensors may be in use by a run that read them before."""
    first = double(store)
    folder = folder_of(store, first)
    (folder / "record.json").write_text("{}")
    reader, seen, replace = double(Store(store.root)), [], os.replace
    (folder / "record.json").write_text("{}")

    def looking(source, target):
        seen.append(reader.tensors["x"].tolist() == [6.0] * 64)
        replace(source, target)
        seen.append(reader.tensors["x"].tolist() == [6.0] * 64)

    monkeypatch.setattr(os, "replace", looking)
    assert not double(store).cached
    assert seen == [True] * 6
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["tensors.safetensors", "record.json", "done.json"]
    )


@pytest.mark.parametrize(("worth", "through"), [(0.0, True), (1e6, False)])
def test_what_took_long_is_on_the_disk_before_it_is_renamed(store, monkeypatch, worth, through):
    order, replace, sync = [], os.replace, pipelines.store.store.fsync
    monkeypatch.setattr(pipelines.store.store, "FSYNC_FROM", worth)
    monkeypatch.setattr(
        os, "replace", lambda old, new: (order.append(f"rename {new.name}"), replace(old, new))
    )
    monkeypatch.setattr(
        pipelines.store.store, "fsync", lambda path: (order.append(path.name), sync(path))
    )
    artifact = double(store)
    names = ["tensors.safetensors", "record.json", "done.json"]
    whole = [step for name in names for step in (name, f"rename {name}")]
    expected = [*whole, artifact.key, "Double"] if through else [f"rename {n}" for n in names]
    assert order == expected


def test_a_folder_without_done_json_is_computed_again(store):
    (folder_of(store, double(store)) / "done.json").unlink()
    assert not double(store).cached and double(store).cached


def test_a_stage_that_raises_leaves_no_artifact_and_no_lock(store):
    @dataclass(frozen=True)
    class Fails:
        def run(self):
            runs.append("Fails")
            raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            store.run(Fails())
    assert len(runs) == 2 and not list(store.root.rglob("done.json"))


def test_scratch_survives_a_failure_and_goes_with_success(store):
    @dataclass(frozen=True)
    class Long:
        def run(self, *, scratch: Path) -> Artifact:
            steps = scratch / "steps"
            before = int(steps.read_text()) if steps.exists() else 0
            steps.write_text(str(before + 1))
            if before < 2:
                raise KeyboardInterrupt
            return Artifact({}, {"steps": before + 1})

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.run(Long())
    assert store.run(Long()).record == {"steps": 3}
    assert not list(store.root.rglob("*.partial"))


def test_has_says_whether_run_would_find_it(store):
    inputs = Keyed(3.0, "n3.0"), Keyed(None, "")
    assert not store.has(Double(2.0, {}), *inputs)
    double(store)
    assert store.has(Double(2.0, {}), *inputs) and not store.has(Double(2.5, {}), *inputs)


def test_a_full_disk_is_a_clear_error_and_earlier_results_stay(store, monkeypatch):
    double(store)

    def full(tensors, path):
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipelines.store.store, "save_file", full)
    with pytest.raises(OSError, match=r"no space left.*OBLIQ_CACHE.*stay valid") as caught:
        double(store, factor=5.0)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert double(store).cached and not double(store, factor=5.0).cached


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_disk_that_fills_up_keeps_what_it_had(small_disk):
    @dataclass(frozen=True)
    class Large:
        kilobytes: int

        def run(self) -> Artifact:
            return Artifact({"x": torch.ones(256 * self.kilobytes)}, {})

    store = Store(small_disk)
    store.run(Large(100))
    with pytest.raises(OSError, match="no space left"):
        store.run(Large(500))
    assert store.run(Large(100)).cached
    assert not store.run(Large(20)).cached, "the failed attempt must not keep its space"


def test_a_read_only_store_still_gives_what_it_has_and_says_what_it_cannot(small_disk):
    store = Store(small_disk)
    double(store)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert double(store).cached
    with pytest.raises(OSError, match=r"cannot write.*OBLIQ_CACHE"):
        double(store, factor=9.0)


def test_a_store_below_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write.*OBLIQ_CACHE"):
        double(Store(tmp_path / "file" / "store"))


@dataclass(frozen=True)
class Slow:
    """Runs until a file `go` appears; says which process ran it."""

    def run(self, folder: Keyed[Path]) -> Artifact:
        with (folder.value / "started").open("a") as file:
            file.write(f"{os.getpid()} ")
        until((folder.value / "go").exists)
        return Artifact({"x": torch.arange(10.0)}, {"pid": os.getpid()})


def slow(folder, answers):
    found = Store(folder / "store", answers.put).run(Slow(), Keyed(folder, ""))
    answers.put((found.record["pid"], found.cached, found.tensors["x"].tolist()))


@pytest.fixture
def worker(tmp_path):
    """Start a process that wants `Slow`; gives the process and the queue of what it says."""
    fork = multiprocessing.get_context("fork")
    started = []

    def start():
        answers = fork.Queue()
        process = fork.Process(target=slow, args=(tmp_path, answers))
        process.start()
        started.append(process)
        return process, answers

    yield start
    for process in started:
        process.kill()


def test_of_two_runs_one_computes_and_the_other_waits_for_it(worker, tmp_path):
    first, answer = worker()
    assert until((tmp_path / "started").exists, first.is_alive)
    _, other_answer = worker()
    assert "waiting for it" in other_answer.get(timeout=PATIENCE)
    (tmp_path / "go").touch()
    numbers = list(range(10))
    assert answer.get(timeout=PATIENCE) == (first.pid, False, numbers)
    assert other_answer.get(timeout=PATIENCE) == (first.pid, True, numbers)
    assert (tmp_path / "started").read_text().split() == [str(first.pid)]


@pytest.fixture
def elsewhere(tmp_path, said):
    """(store, take): take(number) locks Double(2.0, {}) on it as another run does.

    It gives the release, which comes by itself where the store says that it waits.
    """
    taken = []

    def say(message):
        said.append(message)
        for file in taken:
            file.close()

    store = Store(tmp_path / "store", say)

    def take(number):
        key = fingerprint.key(Double(2.0, {}), [Keyed(number, f"n{number}"), Keyed(None, "")])
        path = store.root / "Double" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        taken.append(path.open("w"))
        fcntl.flock(taken[-1], fcntl.LOCK_EX)
        return taken[-1].close

    yield store, take
    for file in taken:
        file.close()


NUMBERS = [1.0, 2.0, 3.0, 4.0]


def numbered(numbers):
    return [(Keyed(n, f"n{n}"), Keyed(None, "")) for n in numbers]


def test_of_several_results_those_that_another_run_is_at_come_last(said, elsewhere):
    store, take = elsewhere
    release, done = take(2.0), []

    def advance(count):
        done.extend([count])
        if len(done) == 3:
            release()

    found = store.run_each(Double(2.0, {}), numbered(NUMBERS), [1.0] * 4, advance)
    assert done == [1, 1, 1, 1]
    assert [float(a.tensors["x"][0]) for a in found] == [2.0, 4.0, 6.0, 8.0]
    assert not said and len(runs) == 4


def test_what_nobody_else_is_left_to_do_is_waited_for(said, elsewhere):
    store, take = elsewhere
    take(1.0)
    found = store.run_each(Double(2.0, {}), numbered([1.0]), [1.0])
    assert [float(a.tensors["x"][0]) for a in found] == [2.0]
    assert said == ["another run is computing Double: waiting for it"]


def test_a_hasty_store_says_that_another_run_is_at_it(said, elsewhere):
    store, take = elsewhere
    release = take(3.0)
    with pytest.raises(LockedError, match="Double"):
        double(store.without_waiting)
    assert not said, "it does not wait"
    release()
    assert not double(store.without_waiting).cached and double(store.without_waiting).cached


def test_a_killed_run_leaves_neither_half_a_result_nor_a_lock(worker, tmp_path):
    first, _ = worker()
    assert until((tmp_path / "started").exists, first.is_alive)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert not list((tmp_path / "store").rglob("*.json"))
    (tmp_path / "go").touch()
    second, answer = worker()
    assert answer.get(timeout=PATIENCE) == (second.pid, False, list(range(10)))


def test_a_kill_while_writing_leaves_a_folder_that_counts_as_absent(store, monkeypatch):
    first = double(store)
    folder = folder_of(store, first)
    content = {p.name: p.read_bytes() for p in folder.iterdir()}
    for reached in ((), ("tensors.safetensors",), ("tensors.safetensors", "record.json")):
        for path in folder.iterdir():
            path.unlink()
        for name in reached:
            (folder / name).write_bytes(content[name])
        (folder / "done.json.new").write_text(json.dumps({"sha256": {}})[:9])
        assert not double(store).cached and double(store).cached


def test_the_code_behind_an_input_is_in_the_key_and_that_of_a_network_in_its_own():
    # by name: what this module imports is in the key of its stage already
    images, other = (
        getattr(importlib.import_module(module), name)
        for module, name in (("evaluation.coco", "Coco"), ("evaluation.voc", "Voc"))
    )

    def key(kind, text="images"):
        value = None if kind is None else object.__new__(kind)
        return fingerprint.key(Double(2.0, {}), [Keyed(value, text)])

    assert len({key(None), key(images), key(other)}) == 3
    assert key(torch.nn.Module) == key(None)
    assert key(images, "") == key(None, ""), "an empty key: it does not change the result"


def place_of(store, number=3.0):
    return store.root / "Double" / double(store, number=number).key


def test_a_folder_that_was_copied_to_another_key_is_noticed(store, said):
    one, other = place_of(store, 3.0), place_of(store, 4.0)
    shutil.rmtree(other)
    shutil.copytree(one, other)
    found = double(store, number=4.0)
    assert not found.cached and float(found.tensors["x"][0]) == 8.0
    assert len(said) == 1 and f"it is a copy of Double/{one.name}" in said[0]
    assert double(store, number=4.0).cached


def put(path, what):
    """Something else at the place of a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if what == "a folder":
        path.mkdir()
        (path / "inner").touch()
    elif what == "a file":
        path.touch()
    else:
        path.symlink_to(path if what == "a link to itself" else path.with_name("nowhere"))


WHAT = ("a folder", "a file", "a link to itself", "a link to nowhere")


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", ["tensors.safetensors", "record.json", "done.json", ""])
def test_what_is_no_file_or_no_folder_in_its_place_is_damage(store, name, what):
    folder = place_of(store)
    put(folder / name, what)
    assert not double(store).cached and double(store).cached
    assert double(store, number=4.0).tensors["x"][0] == 8.0


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("ending", ["lock", "partial", "new"])
def test_what_is_in_the_way_beside_it_is_removed(store, ending, what):
    stage = Random()
    key = fingerprint.key(stage, [])
    (store.root / "Random").mkdir(parents=True)
    put(store.root / "Random" / f"{key}.{ending}", what)
    assert not store.run(stage).cached and store.run(stage).cached


@dataclass(frozen=True)
class Random:
    """Draws without a seed of its own."""

    number: int = 0

    def run(self, *, scratch: Path) -> Artifact:
        drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
        return Artifact({}, {"drawn": drawn})


def test_what_another_run_makes_meanwhile_is_not_cleared_away(tmp_path, monkeypatch):
    """Else the lock of one run is removed by the next one, and both compute."""
    place, exists = tmp_path / "key.lock", os.path.lexists

    def made_by_another(path):
        answer = exists(path)
        place.touch()
        return answer

    monkeypatch.setattr(os.path, "lexists", made_by_another)
    _clear(place, os.path.isfile)
    assert place.is_file()


def test_random_numbers_follow_from_the_key_and_not_from_what_ran_before(tmp_path):
    torch.manual_seed(1)
    first = Store(tmp_path / "one").run(Random()).record["drawn"]
    after = torch.rand(3)
    torch.rand(7), random.random(), numpy.random.rand(3)
    assert Store(tmp_path / "two").run(Random()).record["drawn"] == first
    assert Store(tmp_path / "two").run(Random(1)).record["drawn"] != first
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after), "and leave those of others alone"


def test_a_result_carries_the_versions_that_have_computed_it(store):
    torch_version = importlib.metadata.version("torch")
    assert double(store).versions["torch"] == double(store).versions["torch"] == torch_version
    assert "timm" not in double(store).versions
