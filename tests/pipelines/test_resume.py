"""Ctrl-C in the real command, then the same command again."""

from __future__ import annotations

import signal

import pytest

from pipelines.stages import calibrate
from pipelines.stages.solving.solve import SolveLayer

WORDS = (
    "experiment=digits",
    "calibrate.images=512",
    "method=rtn",
    "baseline.budget=0",
    "report.heatmaps=0",
)


@pytest.fixture
def counted(monkeypatch):
    """Calibration batches and solves so far; number stop[...] of them gets stop["signal"]."""
    done, stop = {"batches": 0, "solves": 0}, {}

    def counting(owner, name, what):
        method = getattr(owner, name)

        def call(*args):
            if stop.get(what) == done[what]:
                signal.raise_signal(stop["signal"])
            done[what] += 1
            return method(*args)

        monkeypatch.setattr(owner, name, call)

    counting(calibrate.CollectHessians, "predict_step", "batches")
    counting(SolveLayer, "run", "solves")
    monkeypatch.setattr(calibrate, "SAVE_EVERY", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    yield done, stop
    signal.signal(signal.SIGINT, before)


def test_after_ctrl_c_or_kill_the_same_command_goes_on_where_it_stopped(obliq, counted, own_store):
    done, stop = counted

    def run(**where):
        done.update(batches=0, solves=0)
        stop.clear()
        stop.update(where)
        return obliq(*WORDS, store=own_store)

    for number, where, counts in (
        (signal.SIGTERM, {"batches": 1}, (1, 0)),
        (signal.SIGINT, {"batches": 2}, (2, 0)),
        (signal.SIGINT, {"solves": 3}, (5, 3)),
    ):
        found = run(signal=number, **where)
        assert found.status == 130 and (done["batches"], done["solves"]) == counts
        assert found.text.splitlines()[-1].startswith("Interrupted. Finished stages are stored")
        for word in ("Traceback", "Detected", "✗"):
            assert word not in found.text
        assert not (found.folder / "results.json").exists()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    found = run()
    assert found.status == 0, found.text
    assert done == {"batches": 0, "solves": 3 + 6}, (
        "three were kept; the baseline runs a row of six"
    )
    assert found.results["cached"]["calibrate"] and not found.results["cached"]["quantize"]
