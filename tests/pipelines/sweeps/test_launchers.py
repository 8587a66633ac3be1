"""The same sweep one job after the other and in parallel processes, on one store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
WORDS = (
    "-m",
    "experiment=digits",
    "method=rtn,gptq",
    "calibrate.images=64",
    "baseline.budget=0",  # ... of OBQ: from as few rows as may be
    "baseline.rows=1",
    "report.heatmaps=0",
    "pictures.count=0",
    "tracking=none",
    "machine.threads=1",
)
TIMED = {"seconds", "baseline_seconds", "speedup", "cached", "output_dir", "machine", "command"}
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray": ("ray", "ray"),
}


def installed(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def needs(launcher):
    package, extra = LAUNCHERS[launcher]
    return pytest.mark.skipif(not installed(package), reason=f"obliq[{extra}] is not installed")


def results_below(folder):
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/results.json"))]
    return {(result["method"], result["weight_bits"]): result for result in found}


def numbers(value):
    """Everything that does not depend on when and where it was computed."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in TIMED}
    return [numbers(v) for v in value] if isinstance(value, list) else value


@pytest.fixture
def own_store(tmp_path, shared_store, digits):
    """A store with the trained network and nothing else."""
    shutil.copytree(shared_store / "TrainDigits", tmp_path / "store" / "TrainDigits")
    return tmp_path / "store"


@pytest.fixture
def in_order(obliq, own_store, tmp_path):
    """The sweep in this process, a job after the other: {(method, bits): results}."""
    threads = torch.get_num_threads()
    found = obliq(*WORDS, "bits=3,4", store=own_store, folder=tmp_path / "basic")
    torch.set_num_threads(threads)
    assert found.status == 0, found.text
    assert found.text.count("4 jobs; files") == 1
    return results_below(found.folder)


@pytest.fixture
def parallel(shared_store, digits, tmp_path):
    """The sweep in processes of its own: (status, what they print, folder, store)."""

    def run(*words):
        store, folder = tmp_path / "parallel", tmp_path / "jobs"
        shutil.copytree(shared_store / "TrainDigits", store / "TrainDigits")
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        env = {**os.environ, "OBLIQ_CACHE": str(store), "PYTHONPATH": path}
        command = [sys.executable, "-m", "pipelines.run", *WORDS, *words]
        done = subprocess.run(
            [*command, f"hydra.sweep.dir={folder}"], env=env, cwd=ROOT, capture_output=True,
            text=True, timeout=1800,
        )  # fmt: skip
        return done.returncode, done.stderr, folder, store

    return run


def check_one_store_and_the_same_numbers(found, folder, store, in_order):
    assert set(found) == {(method, bits) for method in ("rtn", "gptq") for bits in (3, 4)}
    for job, results in found.items():
        assert numbers(results) == numbers(in_order[job]), job
    for results in (found, in_order):
        assert sum(not result["cached"]["calibrate"] for result in results.values()) == 1
    assert len(list((store / "Calibrate").glob("*/done.json"))) == 1
    assert not list(store.glob("*/*.partial"))


@needs("joblib")
@pytest.mark.slow
def test_joblib_gives_the_same_numbers_and_a_job_that_fails_does_not_pass_for_done(
    parallel, in_order
):
    status, text, folder, store = parallel("bits=3,99,4", "launcher=joblib")
    assert status == 1, text
    check_one_store_and_the_same_numbers(results_below(folder), folder, store, in_order)
    assert text.count("bits=99 must be a whole number") == 4, "as they fail, and at the end"
    assert "job 1 digits-rtn-w99: bits=99 must be" in text and "6 jobs, 2 of them failed" in text
    assert (folder / "4" / "error.log").is_file()
    lines = [line for line in text.splitlines() if "✓" in line]
    assert len(lines) >= 4 * 6
    assert all(line.startswith(("[0 ", "[2 ", "[3 ", "[5 ")) for line in lines), text


@needs("submitit")
@pytest.mark.long
def test_submitit_gives_the_same_numbers(parallel, in_order):
    status, text, folder, store = parallel("bits=3,4", "launcher=submitit")
    assert status == 0, text
    check_one_store_and_the_same_numbers(results_below(folder), folder, store, in_order)
    assert f"output of the jobs: {folder}/.submitit" in text and "4 jobs; files" in text
    said = "".join(p.read_text() for p in (folder / ".submitit").glob("*/*_log.err"))
    assert all(f"[{number} digits-" in said for number in range(4))


@needs("submitit")
@pytest.mark.long
def test_a_job_that_fails_in_submitit_is_told_where_the_sweep_was_started(parallel):
    status, text, *_ = parallel("bits=99", "launcher=submitit")
    assert status == 1
    assert text.count("bits=99 must be a whole number") == 2 and "2 of them failed" in text


@needs("ray")
@pytest.mark.long
def test_ray_gives_the_same_numbers(parallel, in_order):
    status, text, folder, store = parallel("bits=3,99,4", "launcher=ray")
    assert status == 1, text
    check_one_store_and_the_same_numbers(results_below(folder), folder, store, in_order)
    assert "6 jobs, 2 of them failed" in text


@pytest.mark.parametrize(("launcher", "names"), [("joblib", "joblib"), ("submitit", "slurm")])
def test_a_launcher_that_is_not_installed_says_what_to_install(obliq, monkeypatch, launcher, names):
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # they have put their settings there
    store = ConfigStore.instance().repo
    known = {
        name: node
        for name, node in store["hydra"]["launcher"].items()
        if not name.startswith(launcher)
    }
    monkeypatch.setitem(store["hydra"], "launcher", known)
    found = obliq("-m", "experiment=digits", "bits=3,4", f"launcher={launcher}")
    assert found.status == 2
    assert f"pip install 'obliq[{names}]'" in found.text and "Traceback" not in found.text


@pytest.mark.parametrize(
    ("words", "package", "names"),
    [
        (("bits=3,4", "launcher=ray"), "ray", "ray"),
        (("hparams=damping",), "optuna", "optuna"),
    ],
)
def test_what_our_plugins_need_is_named_too(obliq, monkeypatch, words, package, names):
    monkeypatch.setitem(sys.modules, package, None)
    found = obliq("-m", "experiment=digits", *words)
    assert found.status == 2
    assert f"pip install 'obliq[{names}]'" in found.text and "Traceback" not in found.text


@pytest.mark.parametrize(
    ("total", "at_once", "each"),
    [(16, 2, 8), (16, 3, 5), (2, 4, 0.5), (0, 2, 0), (1, 2, 0.5), (8, 2, 4)],
)
def test_jobs_on_ray_ask_for_their_part_whole_from_one_on(total, at_once, each):
    from hydra_plugins.obliq_ray_launcher import RayLauncher, _share

    assert _share(total, at_once) == each
    with pytest.raises(ValueError, match=r"hydra\.launcher\.n_jobs=0 must be at least 1"):
        RayLauncher(None, 0)


@needs("joblib")
def test_the_threads_of_parallel_jobs_are_set_before_they_start(monkeypatch, tmp_path):
    from hydra import compose, initialize_config_dir

    from hydra_plugins.obliq_sweep import SweepStarts
    from pipelines.cli.overrides import CONF
    from pipelines.sweeps import jobs

    monkeypatch.setattr(jobs, "cores", lambda: 12)
    monkeypatch.setattr(jobs, "sweep", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    words = ["launcher=joblib", "hydra.launcher.n_jobs=3", f"hydra.sweep.dir={tmp_path}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = compose("run", overrides=words, return_hydra_config=True)
    SweepStarts().on_multirun_start(composed)
    assert os.environ["OMP_NUM_THREADS"] == "4"
    assert os.environ["MKL_NUM_THREADS"] == "7", "what the user has set stays"
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # taken away again at the end
