from __future__ import annotations

import functools
import json

import pytest

from pipelines.stages.calibrate import Calibrate

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
        total = sum(layer["loss"] for layer in job["layers"])
        assert job["baseline"]["loss"] == pytest.approx(
            total, rel=0.2
        )  # damped, unlike the baseline


def test_obq_with_the_damping_of_the_baseline_is_the_baseline_and_solved_once(obliq, tmp_path):
    def solves(*words):
        store = tmp_path / f"store{len(words)}"
        found = obliq(*SHORT, "method=obq", "bits=5", "damping=0.03", *words, store=store)
        assert found.status == 0, found.text
        return len(list((store / "SolveLayer").glob("*/done.json"))), found.results

    (apart, _), (once, results) = solves(), solves("baseline.solve.damping=0.03")
    assert apart == once + len(results["layers"])
    assert results["loss_ratio_vs_baseline"] == 1


def test_a_job_that_fails_does_not_stop_the_others_but_the_status_tells(obliq):
    found = obliq("-m", *SHORT, "method=rtn", "bits=4,99,3")
    assert found.status == 1
    assert sorted(x["weight_bits"] for x in results_below(found.folder).values()) == [3, 4]
    assert "bits=99 must be a whole number" in found.text
    assert (found.folder / "1" / "error.log").is_file()
    again = obliq("-m", *SHORT, "method=rtn", "bits=4,3", folder=found.folder)
    assert again.status == 0, "an old failure is forgotten"
    assert not list(found.folder.glob("*/error.log"))
