"""Outputs collected by two processes are those of one, in the order of the data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys

import torch
from lightning import LightningModule, Trainer
from torch import nn

from evaluation.digits import Digits
from evaluation.evaluator import CollectOutputs

CONFIG = {
    "input_size": (3, 8, 8), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3,
    "crop_pct": 1.0, "crop_mode": "center",
}


class Saving(CollectOutputs):
    def on_test_epoch_end(self):
        super().on_test_epoch_end()
        if self.trainer.is_global_zero:
            torch.save(self.outputs, sys.argv[2])


if __name__ == "__main__":
    devices = int(sys.argv[1])
    data = Digits(None, None, 30, 0, False, 101)  # two processes pad the last batch
    data.prepare(CONFIG, 10, 0, 5)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_spawn" if devices > 1 else "auto",
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    ).test(Saving(data, network), data.test_dataloader(), verbose=False)
"""


@pytest.mark.slow
def test_two_processes_collect_what_one_does(tmp_path):
    (tmp_path / "collect.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    found = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.pt"
        command = [sys.executable, str(tmp_path / "collect.py"), str(devices), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(torch.load(out))
    assert found[0]["logits"].shape == (101, 10)
    for name, values in found[0].items():
        torch.testing.assert_close(found[1][name], values, rtol=0, atol=1e-6)
