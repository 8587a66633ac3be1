"""Several processes and one store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.faults.points import Moment
from tests.faults.runs import ROOT
from tests.faults.trials import Line, Unbroken, begun

COLLECT = """
import sys
from pathlib import Path
from pipelines.store import gc
while True:
    plan = gc.plan(Path(sys.argv[1]), keep=0, older_than=None)
    gc.remove([item for item, _ in plan.remove])
    print("collected", flush=True)
"""


def at_once(unbroken: Unbroken, count: int = 4, say=print) -> Line:
    """Identical runs; each thing is computed by one of them."""
    line = Line(f"{count} identical runs at once")
    store = unbroken.new_store("at-once", "TrainDigits")
    started = [unbroken.runs.start(store) for _ in range(count)]
    ended = [run.wait() for run in started]
    once = begun(unbroken.ended)
    del once["prepare/TrainDigits"]
    twice = {k: n for k, n in (begun(*ended) - once).items() if k.split("/")[-1][0].isupper()}
    for number, end in enumerate(ended):
        wrong = unbroken.wrong(end, store) + ([f"computed twice: {twice}"] if twice else [])
        line.add(f"run {number}", wrong)
        say(f"  run {number} of {count} at once: {wrong or 'the same'}")
    line.repeated = "nothing"
    return line


def dead_owner(unbroken: Unbroken, places=("Calibrate", "TrainRounding"), say=print) -> Line:
    """The owner of a lock is killed while another run waits for it."""
    line = Line("a lock's owner dies")
    for where in places:
        store = unbroken.new_store("dead-owner", "TrainDigits")
        at = Moment(where, unbroken.moments[where] // 2)
        owner = unbroken.runs.start(store, at=at, do="stop")
        wrong = [] if owner.wait_until_stopped() else ["the owner has ended before"]
        waiting = unbroken.runs.start(store)
        stage = where.split("/")[-1]
        said = f"another run is computing {stage}: waiting for it"
        wrong += [] if waiting.wait_for_text(said) else ["the other one did not wait"]
        os.kill(owner.pid, signal.SIGKILL)
        wrong += [] if owner.wait().status == -9 else ["the owner was not killed"]
        wrong += unbroken.wrong(waiting.wait(), store)
        line.add(where, wrong)
        say(f"  owner of {where}'s lock killed: {wrong or 'the other one went on'}")
    line.repeated = "the unfinished stage"
    return line


def collected(unbroken: Unbroken, places=("prepare", "quantize", "report"), say=print) -> Line:
    """`obliq store gc --keep 0` over and over beside a run, from a moment on."""
    line = Line("store gc --keep 0 over and over beside a run")
    for where in places:
        store = unbroken.new_store("collected", "*")
        run = unbroken.runs.start(store, at=Moment(where, 1), do="stop")
        wrong = [] if run.wait_until_stopped() else ["the run has ended before"]
        command = [sys.executable, "-c", COLLECT, str(store)]
        collector = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        try:
            collector.stdout.readline()
            os.kill(run.pid, signal.SIGCONT)
            while not run.has_ended():
                collector.stdout.readline()
        finally:
            collector.kill()
            collector.wait()
        wrong += unbroken.differs(run.wait())  # the store is what was collected, so not looked at
        line.add(where, wrong)
        say(f"  collected from {where} on: {wrong or 'the same'}")
    line.repeated = "what was removed before it was used"
    return line
