"""Ctrl-C and SIGKILL in the real command, then the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STOP = """
import sys, time
from pathlib import Path
from pipelines import run
from pipelines.stages import calibrate, solve

where, reached = sys.argv.pop(1), Path(sys.argv.pop(1))

def pause():
    reached.touch()
    for _ in range(600):  # until the signal comes
        time.sleep(0.1)

calibrate.SAVE_EVERY = 0.0
step, steps = calibrate.CollectHessians.predict_step, []
def slow(self, batch, index):
    if where == "calibrate" and len(steps) == 3:
        pause()
    steps.append(1)
    step(self, batch, index)
calibrate.CollectHessians.predict_step = slow

solved, solves = solve.SolveLayer.run, []
def stop(self, layer, bits):
    if where == "quantize" and len(solves) == 3:
        pause()
    solves.append(1)
    return solved(self, layer, bits)
solve.SolveLayer.run = stop
try:
    run.main()
finally:
    print("steps", len(steps), "solves", len(solves))
"""
WORDS = ("experiment=digits", "tracking=none", "calibrate.images=512", "method=rtn",
         "baseline.budget=0", "report.heatmaps=0")  # fmt: skip


@pytest.fixture
def command(digits, shared_store, tmp_path):
    """Start the command; the digits network is in its store already."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "TrainDigits").symlink_to(shared_store / "TrainDigits")
    started = []

    def start(where, reached):
        process = subprocess.Popen(
            [sys.executable, "-c", STOP, where, str(reached), *WORDS,
             f"hydra.run.dir={tmp_path / 'run'}"],
            cwd=ROOT, env={**os.environ, "OBLIQ_CACHE": str(store)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()


def wait(process, reached):
    until = time.monotonic() + 300
    while not reached.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def stopped(process, reached):
    """Press Ctrl-C where the process pauses; gives what it printed and how far it came."""
    wait(process, reached)
    reached.unlink()
    os.killpg(process.pid, signal.SIGINT)
    out, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert text.strip().splitlines()[-1].startswith("Interrupted.")
    assert "the same command goes on" in text
    assert "Traceback" not in text and "Detected" not in text and "✗" not in text
    return counts(out)


def counts(out):
    """Calibration batches and solves of the process."""
    words = out.split()
    return int(words[-3]), int(words[-1])


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on_where_it_stopped(command, tmp_path):
    reached = tmp_path / "reached"
    assert stopped(command("calibrate", reached), reached) == (3, 0)
    assert stopped(command("quantize", reached), reached) == (5, 3), "three of eight batches kept"
    last = command("nowhere", reached)
    out, text = last.communicate(timeout=300)
    assert last.returncode == 0, text
    assert counts(out) == (0, 3 + 6), "three layers were kept; a row of six for the baseline"
    assert text.splitlines()[1].split()[:5] == ["✓", "calibrate", "from", "the", "store"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["layers"]) == 6
