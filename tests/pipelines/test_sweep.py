from __future__ import annotations

import functools
import json

import pytest

from pipelines.stages.calibrate import Calibrate
from quant.methods import obq

# images as in no other file: nothing is stored yet
SHORT = ("experiment=digits", "calibrate.images=92", "report.heatmaps=0", "damping=0.02")


def results_below(folder):
    return {path.parent: json.loads(path.read_text()) for path in folder.glob("**/results.json")}


@pytest.mark.slow
def test_a_sweep_calibrates_once_and_gives_a_folder_for_each_job(obliq, monkeypatch):
    calibrations, run = [], Calibrate.run

    @functools.wraps(run)
    def counted(self, *args, **more):
        calibrations.append(1)
        return run(self, *args, **more)

    monkeypatch.setattr(Calibrate, "run", counted)
    found = obliq("-m", *SHORT, "method=rtn,gptq,row_parallel,obq", "bits=2,3")
    assert found.status == 0, found.text
    results = results_below(found.folder)
    assert len(results) == 8 and len(calibrations) == 1
    jobs = {(x["method"], x["weight_bits"]): x for x in results.values()}
    assert set(jobs) == {(m, b) for m in ("rtn", "gptq", "row_parallel", "obq") for b in (2, 3)}
    assert sum(not x["cached"]["calibrate"] for x in results.values()) == 1
    for (method, bits), job in jobs.items():
        assert job["baseline"]["loss"] == jobs["obq", bits]["baseline"]["loss"]
        total = sum(layer["loss"] for layer in job["layers"])
        rounded = sum(layer["loss_rtn"] for layer in job["layers"])
        assert total == pytest.approx(rounded) if method == "rtn" else total < 0.9 * rounded
    for bits in (2, 3):
        job = jobs["obq", bits]
        assert job["loss_ratio_vs_baseline"] == 1
        assert job["baseline"]["loss"] == sum(layer["loss"] for layer in job["layers"])


def test_obq_as_a_method_is_the_baseline_and_solved_once(obliq, monkeypatch):
    solved, quantize = [], obq.quantize

    def counted(problem, grid, **more):
        solved.append(tuple(problem.W.shape))
        return quantize(problem, grid, **more)

    counted.__module__, counted.__qualname__ = quantize.__module__, quantize.__qualname__
    monkeypatch.setattr(obq, "quantize", counted)
    found = obliq(*SHORT, "method=obq", "bits=5", "damping=0.03")
    assert found.status == 0, found.text
    rows = [layer["shape"][0] // layer["groups"] for layer in found.results["layers"]]
    whole = [shape for shape in solved if shape[1] > 1 and shape != (1, 3, 4)]  # the preflight's
    assert len(whole) == len(set(whole)) == sum(count > 1 for count in rows)


def test_a_job_that_fails_does_not_stop_the_others_but_the_status_tells(obliq):
    found = obliq("-m", *SHORT, "method=rtn", "bits=4,99,3")
    assert found.status == 1
    assert sorted(x["weight_bits"] for x in results_below(found.folder).values()) == [3, 4]
    assert "bits=99 must be a whole number" in found.text
    assert (found.folder / "1" / "error.log").is_file()
    again = obliq("-m", *SHORT, "method=rtn", "bits=4,3", folder=found.folder)
    assert again.status == 0, "an old failure is forgotten"
    assert not list(found.folder.glob("*/error.log"))
