"""method=eptq on the digits: the whole chain, resuming, its variants, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipelines.stages.rounding.training import RoundingTraining
from quant.grid import Grid
from quant.packing import unpack

ROOT = Path(__file__).parents[4]
SHORT = (
    "method=eptq",
    "schedule=cpu",
    "cpu_steps=40",
    "bits=2",
    "calibrate.images=100",
    "method.held_out=32",
    "baseline.rows=1",
    "baseline.budget=0",
    "pictures.count=0",
)


def test_the_chain_trains_and_says_what_it_did(obliq):
    outcome = obliq(*SHORT, "act_bits=8")
    assert outcome.status == 0, outcome.text
    assert "rounding" in outcome.text and "label-free" in outcome.text
    results = outcome.results
    trained = results["rounding"]
    assert trained["init"] == "row_parallel" and trained["scope"] == "network"
    assert trained["steps"] == 40 and trained["images"] == 68
    assert len(trained["curve"]) == 40 and trained["curve"][-1][0] == 40
    seen = {row[2]: row[0] for row in reversed(trained["curve"]) if row[2] is not None}
    assert trained["kl_after"] == pytest.approx(min(seen), rel=1e-6)
    assert trained["best_step"] == seen[min(seen)]
    assert trained["kept"] == (trained["kl_after"] < trained["kl_before"])
    bits = [row["bits"] for row in results["layers"]]
    assert bits[0] == bits[-1] == 8 and set(bits[1:-1]) == {2}


@pytest.mark.parametrize(
    "words", [("act_bits=8",), ("grid.granularity=group", "grid.group_size=4")]
)
def test_every_stored_weight_lies_on_its_grid_and_its_code_fits_its_bits(obliq, words):
    outcome = obliq(*SHORT, *words, "cpu_steps=60", "schedule.bias_lr=0.002")
    assert outcome.status == 0, outcome.text
    path = outcome.folder / "model.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        layout = json.loads(file.metadata()["obliq"])["layers"]
    assert layout
    for name, told in layout.items():
        codes = unpack(tensors[f"{name}:codes"], told["bits"], tuple(told["shape"]))
        assert int(codes.min()) >= 0 and int(codes.max()) < 2 ** told["bits"]
        scale, zero = tensors[f"{name}:scale"], tensors[f"{name}:zero"].float()
        assert (scale > 0).all()
        grid = Grid(scale, zero, told["bits"], told["group_size"])
        W = grid.decode(codes.float())
        torch.testing.assert_close(grid.round(W), W)


@pytest.mark.parametrize(
    "words",
    [
        ("method.init=rtn",),
        ("method.scope=layer", "method.attention=none"),
        ("method.scope=block", "method.attention=none"),
        ("method.attention=layer", "method.activations=qdrop", "act_bits=4", "method.kind=soft"),
        ("method.activations=direct", "act_bits=4", "grid.search=mse"),
        ("activations.placement=outputs", "act_bits=4", "schedule.activation_lr=0.01"),
    ],
)
def test_the_variants_run_from_the_same_code(obliq, words):
    outcome = obliq(*SHORT, *words)
    assert outcome.status == 0, outcome.text
    assert outcome.results["rounding"]["kl_after"] > 0


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("method.scope=all", "method.scope=all must be one of network, block, layer"),
        ("method.scope=block", "set method.attention=none"),
        ("method.attention=image", "method.attention=image must be one of"),
        ("method.activations=slow", "method.activations=slow must be one of"),
        ("method.confidence=1", "method.confidence=1 must lie in"),
        ("method.held_out=100", "leaves none of 100 calibration images"),
        ("method.init=adaround", "Settings of inits: gptq, obq, row_parallel, rtn"),
        ("cpu_steps=0", "schedule.steps=0 must be at least 1"),
        ("schedule.gradual=2", "schedule.gradual=2 must lie in"),
        ("schedule.warmup=1", "schedule.warmup=1 must lie in"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(obliq, tmp_path, word, says):
    outcome = obliq(*SHORT, word, store=tmp_path / "store")
    assert outcome.status != 0
    assert says in re.sub(r"\s+", " ", outcome.text)
    assert "calibrate  " not in outcome.text


KILLED = """
import os, signal
from pipelines import run
from pipelines.stages.rounding.training import RoundingTraining

step = RoundingTraining.training_step

def killed(self, *batch):
    if int(self.done) == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, *batch)

RoundingTraining.training_step = killed
run.main()
"""


def test_killed_in_the_middle_of_training_it_ends_at_the_same_numbers(
    obliq, shared_store, tmp_path, monkeypatch
):
    words = (*SHORT, "act_bits=8", "cpu_steps=150", "seed=1")  # three steps an epoch
    unbroken = obliq(*words)
    assert unbroken.status == 0, unbroken.text
    store, folder = tmp_path / "killed", tmp_path / "run"
    shutil.copytree(shared_store, store, ignore=shutil.ignore_patterns("TrainRounding"))
    where = ("tracking=none", f"hydra.run.dir={folder}")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, *where],
        env={**os.environ, "OBLIQ_CACHE": str(store)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(store.glob("TrainRounding/*.partial/*.ckpt")), "there is something to go on from"
    assert not (folder / "results.json").exists()
    steps, step = [], RoundingTraining.training_step
    monkeypatch.setattr(
        RoundingTraining,
        "training_step",
        lambda self, *batch: steps.append(1) or step(self, *batch),
    )
    again = obliq(*words, store=store)
    assert again.status == 0, again.text
    assert len(steps) == 150 - 48, "from the last whole epoch on"
    a, b = unbroken.results, again.results
    for results in (a, b):
        assert results["rounding"].pop("seconds") > 0
    for key in ("quantized", "fidelity", "rounding", "loss_ratio_vs_baseline"):
        assert a[key] == b[key], key
