"""Several processes: one that fails ends all of them, and says why, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.machine import launch
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[3]
WORK = """
import os, signal, sys, time
from pathlib import Path
from pipelines.machine.launch import MemberError

def note(place, folder):
    draft = Path(folder) / f"draft{place.rank}"  # a note that is there is whole
    draft.write_text(str(os.getpid()))
    draft.rename(Path(folder) / f"{place.rank} of {place.world}")

def wait(happens=lambda: False):
    while not happens():
        time.sleep(0.01)

def wait_for(folder, name):
    wait((Path(folder) / name).exists)

def all_note(place, folder):
    print("not on the screen" if place.rank else "on the screen", flush=True)
    note(place, folder)

def second_fails(place, folder, how):
    note(place, folder)
    if place.rank == 0:
        wait()
    wait_for(folder, "0 of 2")
    if how == "told":
        raise MemberError("the text", "the trace")
    if how == "untold":
        raise KeyError("some key")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exits":
        print("last words", flush=True)
        os._exit(7)
    if how == "interrupted":
        raise KeyboardInterrupt

def first_fails_of_the_second(place, folder):
    if place.rank == 0:
        wait_for(folder, "gone")
        raise RuntimeError("connection closed by peer")
    (Path(folder) / "gone").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)

def deaf(place, folder):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    note(place, folder)
    if place.rank == 0:
        wait()
    wait_for(folder, "0 of 2")
    raise ValueError("no use")
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Functions that other processes can import; who has failed first is asked at once."""
    monkeypatch.setattr(launch, "SETTLE", 0.0)
    (tmp_path / "launched_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    import launched_work

    return launched_work


def ended(folder):
    """Are all processes that left a note gone?"""
    return not any(psutil.pid_exists(int(path.read_text())) for path in folder.glob("* of *"))


def test_all_processes_run_and_only_the_first_one_has_the_screen(work, tmp_path, capfd):
    launch.spawn(3, work.all_note, str(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("* of *")) == ["0 of 3", "1 of 3", "2 of 3"]
    assert capfd.readouterr().out == "on the screen\n"


@pytest.mark.parametrize(
    ("how", "text", "trace"),
    [
        ("told", "^the text$", "Process 2 of 2\nthe trace"),
        ("untold", "^KeyError: 'some key'$", "in second_fails"),
        ("killed", "process 2 of 2 was killed by SIGKILL, .*machine.devices=N", ""),
        ("exits", "process 2 of 2 ended with status 7. Its output: last words", ""),
    ],
)
def test_the_error_of_one_process_ends_the_others(work, tmp_path, how, text, trace):
    with pytest.raises(launch.MemberError, match=text) as error:
        launch.spawn(2, work.second_fails, str(tmp_path), how)
    assert trace in error.value.trace
    assert ended(tmp_path)


def test_an_interrupted_process_interrupts_the_run(work, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        launch.spawn(2, work.second_fails, str(tmp_path), "interrupted")
    assert ended(tmp_path)


def test_the_cause_is_told_and_not_what_came_of_it(work, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "SETTLE", PATIENCE)  # both end by themselves, in whatever order
    with pytest.raises(launch.MemberError, match="process 2 of 2 was killed by SIGKILL"):
        launch.spawn(2, work.first_fails_of_the_second, str(tmp_path))


def test_a_process_that_does_not_listen_is_ended_all_the_same(work, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.2)
    with pytest.raises(launch.MemberError, match=r"^ValueError: no use$"):
        launch.spawn(2, work.deaf, str(tmp_path))
    assert ended(tmp_path)


def test_processes_do_not_outlive_the_one_that_watches_them(work, tmp_path):
    script = "launch.spawn(2, launched_work.second_fails, sys.argv[1], 'not at all')"
    imports = "import sys; sys.path.insert(0, sys.argv[1]); import launched_work"
    command = f"{imports}; from pipelines.machine import launch; {script}"
    watching = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], cwd=ROOT)
    both = [tmp_path / f"{rank} of 2" for rank in range(2)]
    assert until(lambda: all(note.exists() for note in both), lambda: watching.poll() is None)
    watching.kill()
    watching.wait()
    assert until(lambda: ended(tmp_path))
