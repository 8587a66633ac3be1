"""`obliq store`: what is listed, and what goes when the store is to become smaller."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from filelock import FileLock

from pipelines.machine import clock
from pipelines.store import command, contents, gc, users
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store, artifact_keys

DAY = 86400.0
SIZE = 4000  # bytes of the tensor of an artifact, without what is stored beside it


@dataclass(frozen=True)
class Fill:
    """A tensor of 4000 bytes."""

    value: float

    def run(self, *inputs: object) -> Artifact:
        return Artifact({"x": torch.full((SIZE // 4,), self.value, dtype=torch.float32)}, {})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@dataclass(frozen=True)
class Other:
    """Another stage."""

    def run(self):
        return Artifact({}, {})


def fill(store, value, *inputs, used=0.0):
    """Store an artifact that was last used so many days ago; its folder."""
    artifact = store.run(Fill(value), *inputs)
    folder = store.root / "Fill" / artifact.key
    age(folder, used)
    return folder


def age(folder, days):
    then = time.time() - days * DAY
    os.utime(folder / "done.json", (then, then))


def folders(plan):
    return [item.path for item, _ in plan.remove]


def total(store):
    return sum(item.size for item in contents.scan(store.root))


def collected(store, **limits):
    limits = {"keep": None, "older_than": None} | limits
    plan = gc.plan(store.root, **limits)
    return [item.path for item in gc.remove([item for item, _ in plan.remove])]


def test_the_least_recently_used_go_first_until_the_rest_fits(store):
    a, b, c = (fill(store, value, used=days) for value, days in ((1, 2), (2, 9), (3, 5)))
    whole = total(store)
    assert 3 * SIZE < whole < 4 * SIZE
    assert collected(store, keep=whole) == []
    assert collected(store, keep=whole - 1) == [b]
    assert collected(store, keep=total(store) - 1) == [c]
    assert a.exists() and not b.exists() and not c.exists()


def test_what_was_not_used_for_long_goes(store):
    old, new = fill(store, 1, used=31), fill(store, 2, used=29)
    assert collected(store, older_than=30 * DAY) == [old]
    assert new.exists()


def test_reading_an_artifact_counts_as_using_it(store):
    old = fill(store, 1, used=31)
    assert store.run(Fill(1)).cached
    assert collected(store, older_than=30 * DAY) == [] and old.exists()


def test_what_was_removed_is_computed_anew_and_the_same(store):
    first = store.run(Fill(1))
    tensor = first.tensors["x"]
    assert len(collected(store, keep=0)) == 1
    again = store.run(Fill(1))
    assert not again.cached and again.key == first.key and torch.equal(again.tensors["x"], tensor)


def test_without_limits_only_what_nobody_can_use_goes(store):
    whole = fill(store, 1, used=1000)
    torn, progress = store.root / "Fill" / ("a" * 32), store.root / "Fill" / f"{'b' * 32}.partial"
    over = store.root / "Fill" / f"{whole.name}.partial"  # its artifact is complete
    moved = store.root / "Fill" / f"{'c' * 32}.removed-1-2"  # of a gc that was killed
    for folder in (torn, progress, over, moved):
        folder.mkdir()
        (folder / "tensors.safetensors").write_text("half")
    assert sorted(collected(store)) == sorted([torn, over, moved])
    assert whole.exists() and progress.exists()
    assert collected(store, keep=0) == [whole, progress]


def test_what_is_locked_stays(store):
    done, partial = fill(store, 1, used=50), store.root / "Fill" / f"{'b' * 32}.partial"
    torn = store.root / "Fill" / ("c" * 32)
    for folder in (partial, torn):
        folder.mkdir()
        (folder / "some").write_text("bytes")
    locks = [FileLock(store.root / "Fill" / f"{k}.lock") for k in (done.name, "b" * 32, "c" * 32)]
    for lock in locks:
        lock.acquire()
    assert gc.plan(store.root, keep=0, older_than=None).remove == []
    assert collected(store, keep=0) == []
    for lock in locks:
        lock.release()
    assert sorted(collected(store, keep=0)) == sorted([done, partial, torn])


OTHER = """
import sys
from pathlib import Path
from pipelines.store import users
with users.using(Path(sys.argv[1])):
    print("in", flush=True)
    input()
"""


def test_what_a_living_run_has_used_stays_and_a_killed_one_holds_nothing(store):
    old, before = fill(store, 1, used=5), time.time()
    command = [sys.executable, "-c", OTHER, store.root]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline().strip() == b"in"
        begun = users.first_start(store.root) + users.CLOCK_SKEW
        assert before <= begun <= time.time()
        new = fill(store, 2)
        assert collected(store, keep=0) == [old]
    finally:
        other.kill()
        other.wait()
    assert collected(store, keep=0) == [new]
    assert users.first_start(store.root) is None
    assert list((store.root / users.FOLDER).iterdir()) == []


def test_what_is_used_between_the_plan_and_the_removal_stays(store):
    folder = fill(store, 1, used=50)
    plan = gc.plan(store.root, keep=0, older_than=None)
    assert folders(plan) == [folder]
    assert store.run(Fill(1)).cached
    assert gc.remove([item for item, _ in plan.remove]) == []
    assert folder.exists()


def test_what_is_used_in_the_middle_of_the_removal_comes_back(store, monkeypatch):
    fill(store, 1, used=50)
    plan = gc.plan(store.root, keep=0, older_than=None)
    look, looks = gc._last_use, []

    def just_used(path):
        looks.append(path)
        if len(looks) == 1:  # right after gc has looked, before it renames
            seen = look(path)
            age(path, 0)
            return seen
        return look(path)

    monkeypatch.setattr(gc, "_last_use", just_used)
    assert gc.remove([item for item, _ in plan.remove]) == []
    assert store.run(Fill(1)).cached


def test_what_a_run_has_finished_since_the_plan_stays(store):
    """A leftover of a killed run, which another one computes between the plan and the removal."""
    folder = fill(store, 1)
    content = (folder / "done.json").read_bytes()
    (folder / "done.json").unlink()
    plan = gc.plan(store.root, keep=None, older_than=None)
    assert folders(plan) == [folder]
    (folder / "done.json").write_bytes(content)
    assert gc.remove([item for item, _ in plan.remove]) == []
    assert store.run(Fill(1)).cached


def test_a_run_is_known_though_somebody_looks_just_as_it_registers(store, monkeypatch):
    folder = store.root / users.FOLDER
    folder.mkdir(parents=True)
    looked_at = FileLock(folder / f"7-{os.getpid()}.lock")
    looked_at.acquire()
    times = iter((7e-9, 8e-9))
    monkeypatch.setattr(clock, "now", lambda: next(times))
    with users.using(store.root):
        looked_at.release()
        assert users.first_start(store.root) == pytest.approx(8e-9 - users.CLOCK_SKEW)
        assert [p.name for p in folder.iterdir()] == [f"8-{os.getpid()}.lock"]
    assert list(folder.iterdir()) == []


def test_the_file_of_a_dead_run_goes_while_it_is_locked(store, monkeypatch):
    """Else a run that has just opened it would hold a lock on a file without a name."""
    path, held = store.root / users.FOLDER / "1-1.lock", []
    path.parent.mkdir(parents=True)
    path.touch()
    unlink = type(path).unlink

    def looking(self, **given):
        held.append(users.is_held(self))
        unlink(self, **given)

    monkeypatch.setattr(type(path), "unlink", looking)
    assert users.first_start(store.root) is None
    assert held == [True] and not path.exists()


def test_what_an_artifact_was_computed_from_is_kept_and_older_ones_say_unknown(store, capsys):
    first = store.run(Fill(1))
    second = store.run(Fill(2), first, Keyed(None, f"{first.key} {'f' * 64}"), Keyed(0, "4"))
    items = {item.key: item for item in contents.scan(store.root)}
    assert items[second.key].inputs == (first.key,) and items[first.key].inputs == ()
    users = contents.dependents(list(items.values()))
    assert [item.key for item in users[first.key]] == [second.key]
    done = store.root / "Fill" / first.key / "done.json"
    record = json.loads(done.read_text())
    done.write_text(json.dumps({k: v for k, v in record.items() if k not in ("inputs", "own")}))
    assert command.main(["ls"], store.root) == 0
    lines = capsys.readouterr().out.splitlines()
    (old,) = (line for line in lines if line.split()[1:2] == [first.key[:8]])
    (new,) = (line for line in lines if line.split()[1:2] == [second.key[:8]])
    assert "unknown" in old and f"Fill {second.key[:8]}" in old
    assert f"Fill {first.key[:8]}" in new
    assert not store.run(Fill(1)).cached, "it does not say what it is"


def test_keys_are_found_inside_of_keys():
    one, two = "0123456789abcdef" * 2, "f" * 32
    assert artifact_keys([f"{two},{one}", f"{one} {two}/conv1", "a" * 64, "4", ""]) == [one, two]


def test_a_dry_run_says_the_same_and_removes_nothing(store, capsys):
    old, _ = fill(store, 1, used=40), fill(store, 2, used=1)
    words = ["gc", "--older-than", "30d"]
    size = command.size(next(i.size for i in contents.scan(store.root)))
    assert command.main([*words, "--dry-run"], store.root) == 0
    dry = capsys.readouterr().out
    assert old.exists()
    assert command.main(words, store.root) == 0
    assert capsys.readouterr().out == dry.replace("would remove", "removed")
    assert f"Fill {old.name[:8]} (artifact): {size}" in dry and "used 40 d ago" in dry
    assert f"would remove 1 folder, {size};" in dry
    assert not old.exists()


def test_a_limit_that_cannot_be_kept_is_said(store, capsys):
    fill(store, 1)
    with users.using(store.root):
        assert command.main(["gc", "--keep", "1kB"], store.root) == 0
    size = command.size(total(store))
    assert f"still over 1 kB: running processes use {size}" in capsys.readouterr().out


def test_du_adds_up_by_stage(store, capsys):
    fill(store, 1)
    fill(store, 2)
    assert command.main(["du"], store.root) == 0
    said = capsys.readouterr().out
    size = command.size(total(store))
    (line,) = (line for line in said.splitlines() if "Fill" in line)
    took = sum(item.seconds for item in contents.scan(store.root))
    assert line.split()[:6] == ["Fill", "2", *size.split(), f"{took:,.1f}", "s"]
    assert f"{store.root}: {size} in 2 folders" in said


def test_ls_shows_the_stages_that_are_named(store, capsys):
    fill(store, 1)
    store.run(Other())
    assert command.main(["ls", "Other"], store.root) == 0
    said = capsys.readouterr().out
    assert "Other" in said and "Fill" not in said
    assert command.main(["ls", "Other", "fill"], store.root) == 1
    told = capsys.readouterr()
    assert "no results of fill in" in told.err and "its stages: Fill, Other" in told.err
    assert "Other" not in told.out


@pytest.mark.parametrize(
    ("text", "number"),
    [("20GB", 20e9), ("1.5t", 1.5e12), ("512MiB", 512 * 2**20), ("10", 10), ("3 kB", 3000)],
)
def test_sizes_are_read(text, number):
    assert command.size_in_bytes(text) == number


@pytest.mark.parametrize(("text", "days"), [("30d", 30), ("12h", 0.5), ("2w", 14), ("90m", 1 / 16)])
def test_ages_are_read(text, days):
    assert command.duration(text) == days * DAY


@pytest.mark.parametrize("text", ["much", "-1GB", "5iB", "GB", "1PB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        command.size_in_bytes(text)


def test_a_store_that_is_not_there_is_said(tmp_path, capsys):
    assert command.main(["du"], tmp_path / "none") == 1
    assert "OBLIQ_CACHE" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_has_it_and_a_run_keeps_what_it_uses(obliq, tmp_path, monkeypatch):
    """A real run; what it has used is known to be in use while it goes on."""
    from pipelines import ptq

    root, seen, whole = tmp_path / "own", [], ptq.run

    def looking(*given):
        results = whole(*given)
        seen.append(gc.plan(root, keep=0, older_than=None))
        return results

    monkeypatch.setattr(ptq, "run", looking)
    assert obliq("bits=4", "method=rtn", "model.train.epochs=1", store=root).status == 0
    assert seen[0].remove == [] and {"Calibrate", "SolveLayer"} <= {i.stage for i in seen[0].busy}
    items = contents.scan(root)
    (calibration,) = (item for item in items if item.stage == "Calibrate")
    needing = contents.dependents(items)[calibration.key]
    assert {"Sensitivity", "SolveLayer"} <= {item.stage for item in needing}
    monkeypatch.setattr(sys, "argv", ["obliq", "store", "gc", "--keep", "0"])
    from pipelines import run

    run.main()
    assert contents.scan(root) == []


def test_lock_files_go_unless_they_are_held(store):
    fill(store, 1), fill(store, 2, used=50)
    held = FileLock(store.root / "Fill" / f"{'b' * 32}.lock")
    with held, users.using(store.root):
        gc.remove_locks(store.root)
        assert [p.name for p in store.root.glob("Fill/*.lock")] == ["b" * 32 + ".lock"]
        assert len(list((store.root / users.FOLDER).glob("*.lock"))) == 1, "of a running process"
    assert command.main(["gc", "--keep", "0"], store.root) == 0
    assert list(store.root.rglob("*.lock")) == []


def as_nobody(code, *words):
    """Run Python code as another user, with access to what this one imports."""
    imports = "import os, locale\nfrom pipelines.store import command, limit, gc, contents\n"
    script = f"{imports}os.setgid(65534); os.setuid(65534)\n{code}"
    run = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's files")
def test_files_of_another_user_stay_and_are_no_error(store, tmp_path):
    folder = fill(store, 1, used=50)
    (store.root / users.FOLDER).mkdir(exist_ok=True)
    lock = store.root / users.FOLDER / "1-1.lock"
    lock.touch()
    lock.chmod(0o600)
    hidden = store.root / "Fill" / ("c" * 32)
    hidden.mkdir(mode=0o700)
    parents = [p for p in (store.root, *store.root.parents) if p != p.parent]
    for path in parents:
        path.chmod(path.stat().st_mode | 0o055)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "os.environ['OBLIQ_CACHE_LIMIT'] = '1KB'\n"
        "limit.enforce(Path(sys.argv[1]), print)\n"
        "raise SystemExit(command.main(['gc', '--keep', '0'], Path(sys.argv[1])))\n"
    )
    done = as_nobody(code, store.root)
    assert done.returncode == 0, done.stderr + done.stdout
    assert folder.exists() and hidden.exists() and lock.exists()


def test_in_a_store_that_a_group_shares_everything_can_be_written_by_it(tmp_path):
    for shared in (True, False):
        root = tmp_path / str(shared)
        root.mkdir()
        root.chmod(0o2775 if shared else 0o755)
        mask = os.umask(0o022)
        try:
            with users.using(root):
                Store(root).run(Fill(1))
                found = {p: p.stat().st_mode for p in root.rglob("*")}
        finally:
            os.umask(mask)
        assert {bool(mode & 0o020) for mode in found.values()} == {shared}
        names = {p.suffix for p in found}
        assert {".lock", ".json", ".safetensors"} <= names
