from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.machine import clock
from pipelines.machine.stopwatch import Place, place_of, timed
from tests.waiting import PATIENCE


def test_of_clock_and_processor_the_shorter_time_counts(monkeypatch):
    for passed, busy in ((3.0, 8.0), (8.0, 3.0)):
        seconds, processor = iter((0.0, passed)), iter((0.0, busy))
        monkeypatch.setattr(clock, "seconds", lambda s=seconds: next(s))
        monkeypatch.setattr(clock, "processor_seconds", lambda p=processor: next(p))
        with timed() as watch:
            pass
        assert watch.seconds == 3.0


def test_a_record_says_where_and_comes_back():
    with timed() as watch:
        pass
    assert place_of(watch.record) == watch.place == Place.here()
    assert {"host", "cpu", "threads", "kernels", "load"} == set(watch.record["timed"])


@pytest.mark.parametrize("field", ["host", "cpu", "threads", "kernels"])
def test_everything_that_a_time_depends_on_tells_places_apart(field):
    here = Place.here()
    other = replace(here, **{field: 99 if field == "threads" else "another"})
    assert other != here and other.key != here.key
    assert (other.machine == here.machine) == (field == "threads")


def test_the_threads_of_a_place_are_those_that_are_in_use():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert Place.here().threads == before + 1
    finally:
        torch.set_num_threads(before)


CHILD = """
import sys
from pipelines.machine.stopwatch import timed
with timed() as watch:
    print("begun", flush=True)
    for n in range(2_000_000):
        pass
    sys.stdin.readline()  # comes after it was stopped and went on
print(watch.seconds)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_process_that_was_stopped_has_not_computed_meanwhile():
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        assert child.stdout.readline().strip() == "begun"
        child.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        while _state(child.pid) != "T" and time.monotonic() < begun + PATIENCE:
            time.sleep(0.01)
        stopped = time.monotonic()
        while time.monotonic() < stopped + 3:
            time.sleep(0.1)
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate("go on\n", timeout=PATIENCE)
    finally:
        child.kill()
    assert 0 < float(said) < 3, "stopped for three seconds, which do not count"


def _state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
