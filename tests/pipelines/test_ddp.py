"""The real command in two processes, against one: the same numbers, one error, one interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
ALL = ("machine.threads=1", "baseline.budget=0", "report.heatmaps=0", "tracking=none")
TIMED = {"seconds", "baseline_seconds", "speedup", "measuring"}  # in seconds
NAMED = {"machine", "cached", "output_dir", "command", "versions", "source"}  # may well differ


def numbers(value, path=()):
    """(path, value) of whatever is in results.json, but for seconds and names of the run."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in TIMED | NAMED:
                yield from numbers(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from numbers(item, (*path, place))
    else:
        yield path, value


def same(found, expected):
    """Results and weights of two folders."""
    first, second = (
        dict(numbers(json.loads((folder / "results.json").read_text())))
        for folder in (found, expected)
    )
    assert first.keys() == second.keys() and len(first) > 100
    for path, value in second.items():
        if isinstance(value, float):
            rel = 1e-4 if path[-1] == "cluster" else 1e-6  # H^-1 amplifies the rounding of H
            assert first[path] == pytest.approx(value, rel=rel, abs=1e-12), path
        else:
            assert first[path] == value, path
    weights, others = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert weights.keys() == others.keys()
    for name, tensor in others.items():
        if not tensor.is_floating_point():
            assert tensor.equal(weights[name]), name


class Command:
    """`python -m pipelines.run` in two processes, on a store of its own."""

    def __init__(self, tmp_path, shared_store):
        self.tmp_path, self.store = tmp_path, tmp_path / "store of two"
        self.folder = tmp_path / "two"
        shutil.copytree(shared_store / "TrainDigits", self.store / "TrainDigits")

    def start(self, *words, processes=2):
        own = {"OBLIQ_CACHE": str(self.store), "PYTHONPATH": f"{ROOT}{os.pathsep}{self.tmp_path}"}
        several = ("machine=ddp", f"machine.devices={processes}", "machine.accelerator=cpu")
        where = f"hydra.run.dir={self.folder}"
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.run", *several, *ALL, *words, where],
            env={**os.environ, **own},
            cwd=self.tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words, **more):
        """(exit status, what was on the screen)."""
        started = self.start(*words, **more)
        try:
            _, text = started.communicate(timeout=PATIENCE)
        finally:
            started.kill()
        return started.returncode, text


@pytest.fixture
def two(tmp_path, shared_store, digits):
    return Command(tmp_path, shared_store)


def both(two, obliq, *words, **more):
    """The same command in two processes (the text that it prints), and in one."""
    status, text = two.run(*words, **more)
    assert status == 0, text
    own = two.tmp_path / "store of one"
    shutil.copytree(two.store / "TrainDigits", own / "TrainDigits")
    one = obliq("machine=cpu", *ALL, *words, store=own)
    assert one.status == 0, one.text
    left = [p for p in two.store.rglob("*") if ".partial" in p.name or p.parent.name == "running"]
    assert left == []
    return text, one


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(two, obliq):
    # calibration: 202 images in 13 batches, 101 in 7; evaluation: 360 in 4 whole ones
    words = ("calibrate.images=101", "calibrate.batch_size=16", "calibrate.augmented_copies=1")
    more = (
        "calibrate.positions_per_image=5",
        "data.batch_size=90",
        "act_bits=4",
        "data.images=360",
    )
    text, one = both(two, obliq, *words, *more, "bits=3", "batchnorm.compare_images=50")
    same(two.folder, one.folder)
    for stage in ("calibrate", "quantize", "evaluate"):
        assert text.count(f"✓ {stage}") == 1, text
    results = json.loads((two.folder / "results.json").read_text())
    assert results["n_images"] == 360 and results["machine"]["processes"] == 2
    assert not results["cached"]["quantize"] and not results["cached"]["baseline"]
    assert results["correction"]["kept"], "or nothing was compared of it"
    assert one.results["machine"]["processes"] == 1


@pytest.mark.long
def test_so_do_they_where_they_divide_everything_and_layers_wait_for_each_other(two, obliq):
    words = ("calibrate.images=64", "calibrate.batch_size=16", "data.batch_size=50")
    more = ("method=rtn", "quantize.inputs=sequential", "batchnorm=reestimate")
    _, one = both(two, obliq, *words, *more)
    same(two.folder, one.folder)


@pytest.mark.long
def test_a_process_without_a_batch_does_no_harm(two, obliq):
    words = ("calibrate.images=40", "calibrate.batch_size=32", "method=rtn", "act_bits=8")
    _, one = both(two, obliq, *words, processes=3)
    same(two.folder, one.folder)


@pytest.mark.long
def test_mixed_precision_is_measured_and_searched_by_two_processes_as_by_one(two, obliq):
    changes = ("precision.perturbations.images=60", "precision.traces.images=33")
    _, one = both(
        two,
        obliq,
        *("precision=mixed", "precision.choices=[2,3,8]", "precision.activations=true", *changes),
        *("precision.target=0.98", "precision.images=70", "precision.check_predictions=3"),
        *("calibrate.images=70", "calibrate.batch_size=16", "method=rtn"),
    )
    same(two.folder, one.folder)


@pytest.mark.long
def test_eptq_is_trained_by_two_processes_as_by_one(two, obliq):
    # Adam makes a whole step of a gradient that is nothing but rounding: from the third step on
    # the two go apart, as one process does on another processor.
    steps = ("schedule=cpu", "cpu_steps=3", "schedule.batch_size=15", "schedule.micro_batch_size=4")
    words = ("method=eptq", "method.init=rtn", "method.held_out=40", "act_bits=4")
    images = ("calibrate.images=100", "calibrate.batch_size=30")
    _, one = both(two, obliq, *steps, *words, *images)
    of_two, of_one = (
        load_file(next((store / "LabelFreeHessian").glob("*/tensors.safetensors")))
        for store in (two.store, two.tmp_path / "store of one")
    )
    assert of_two.keys() == of_one.keys()
    for name, tensor in of_one.items():
        torch.testing.assert_close(of_two[name], tensor, rtol=1e-6, atol=0)
    found = json.loads((two.folder / "results.json").read_text())["rounding"]
    expected = one.results["rounding"]
    assert expected["kl_before"] == pytest.approx(found["kl_before"], rel=1e-6)
    for (step, loss, _), (_, other, _) in zip(found["curve"], expected["curve"], strict=True):
        assert loss == pytest.approx(other, rel=1e-6 if step < 3 else 1e-2)


@pytest.mark.long
def test_norms_whose_batches_depend_on_each_other_are_matched_as_by_one_process(
    two, obliq, tiny_bert
):
    model = (f"model.checkpoint={tiny_bert}", "model.max_length=12", f"data.root={tiny_bert}")
    words = ("model=transformers", "model.name=tiny", "data=sst2", *model, "calibrate.images=20")
    more = ("calibrate.batch_size=5", "data.batch_size=7", "act_bits=8", "bits=3", "method=gptq")
    _, one = both(two, obliq, *words, *more)
    same(two.folder, one.folder)
    assert one.results["correction"]["kl_after"] > 0


BROKEN = """
import os
import time

from torch import distributed

from evaluation.digits import Digits

class Broken(Digits):
    \"\"\"Fails in the second process, while the first one waits for it to calibrate.\"\"\"

    def fitting_loader(self, start=0):
        if distributed.get_rank() == 1:
            raise ValueError("the second process has had enough")
        return super().fitting_loader(start)

class Slow(Digits):
    def outputs(self, network, reference, batch):
        open(f"{os.environ['OBLIQ_CACHE']}/evaluating{distributed.get_rank()}", "w").close()
        while True:
            time.sleep(1)
"""
QUICK = ("calibrate.images=32", "method=rtn", "data.batch_size=100")


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_and_is_told_once(two):
    (two.tmp_path / "broken_data.py").write_text(BROKEN)
    status, text = two.run(*QUICK, "data._target_=broken_data.Broken")
    assert status == 1, text
    assert text.count("the second process has had enough") == 1
    lines = text.splitlines()
    assert lines[-2] == "✗ the second process has had enough" and "error.log" in lines[-1]
    assert "Traceback" not in text and not (two.folder / "results.json").exists()
    trace = (two.folder / "error.log").read_text()
    assert trace.startswith("Process 2 of 2\nTraceback") and "broken_data.py" in trace


@pytest.mark.long
def test_after_ctrl_c_all_processes_are_gone_and_the_command_goes_on(two):
    (two.tmp_path / "broken_data.py").write_text(BROKEN)
    started = two.start(*QUICK, "data._target_=broken_data.Slow")
    both = [two.store / f"evaluating{rank}" for rank in range(2)]
    assert until(lambda: all(path.exists() for path in both), lambda: started.poll() is None)
    members = psutil.Process(started.pid).children(recursive=True)
    assert len(members) >= 2, "processes of the run"
    started.send_signal(signal.SIGINT)
    _, text = started.communicate(timeout=PATIENCE)
    assert started.returncode == 130, text
    assert text.count("Interrupted.") == 1 and "Traceback" not in text and "✗" not in text
    assert not [p for p in psutil.wait_procs(members, timeout=PATIENCE)[1] if p.is_running()]

    status, text = two.run(*QUICK)
    assert status == 0, text
    cached = json.loads((two.folder / "results.json").read_text())["cached"]
    assert cached["quantize"] and not cached["evaluate"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=eptq", "method.activations=qdrop"), "draws random numbers for a whole batch"),
        (("method=eptq", "schedule.batch_size=1"), "a step trains on 1 images, which 2 processes"),
    ],
)
def test_what_processes_cannot_share_is_refused(digits, words, said):
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        rounding = instantiate(compose("run", ["experiment=digits", *words]).rounding)
    rounding.check(500, 1)
    with pytest.raises(ValueError, match=said):
        rounding.check(500, 2)
