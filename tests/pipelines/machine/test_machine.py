"""Precision: what the loops compute in, and that results of different ones are kept apart."""

from __future__ import annotations

import pytest
import torch
from lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from pipelines.machine.machine import PRECISIONS, Machine

TYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))
SMALL = ("calibrate.images=128", "baseline.budget=0", "act_bits=8", "bits=3")


def machine(precision):
    return Machine("cpu", 1, precision, 1)


class Seen(LightningModule):
    """Notes the type of what a layer gives, and fits it to -1, 0 and 1."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.types, self.scales, self.losses = set(), set(), []

    def forward(self, x):
        y = self.layer(x)
        self.types.add(y.dtype)
        return y

    def predict_step(self, batch):
        self(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)

    def train_dataloader(self):
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(x, batch_size=8)

    def training_step(self, batch):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = (self(batch).float() - torch.tensor([-1.0, 0.0, 1.0])).square().mean() * 1e-7
        self.manual_backward(loss)
        self.scales.add(self.trainer.precision_plugin.__dict__.get("scaler") is not None)
        optimizer.step()
        self.losses.append(float(loss.detach()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_networks_run_in_the_precision_that_is_asked_for(precision):
    module = Seen()
    loader = DataLoader(torch.ones(4, 4), batch_size=2)
    machine(precision).predict("look", module, loader)
    assert module.types == {TYPES[precision]} and module.layer.weight.dtype == torch.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_they_train_in_it_and_small_gradients_of_float16_are_scaled(precision, tmp_path):
    module = Seen()
    machine(precision).fit("fit", module, 50, 200, tmp_path)
    assert module.types == {TYPES[precision]} and module.losses[-1] < module.losses[0] / 10
    assert module.scales == {precision == "16-mixed"}


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true", "int8"])
def test_a_precision_that_would_round_the_weights_is_refused(precision):
    with pytest.raises(ValueError, match=r"machine\.precision=.* must be one of 32-true"):
        machine(precision)


def test_only_full_precision_has_no_key():
    keys = [machine(precision).key for precision in PRECISIONS]
    assert keys[0] == "" and len(set(keys)) == len(PRECISIONS)


def test_nothing_computed_in_one_precision_is_served_to_another(obliq, own_store):
    runs = [obliq(f"machine.precision={p}", *SMALL, store=own_store) for p in PRECISIONS[:2]]
    again = obliq("machine.precision=bf16-mixed", *SMALL, store=own_store)
    full, half, again_half = (o.results["fidelity"]["kl"] for o in (*runs, again))
    assert half != full and again_half == half
    assert "calibrate     from the store" in again.text
    assert "from the store" not in runs[1].text.split("calibrate")[1].split("\n")[0]


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_the_rounding_trains_in_half_precision(obliq, own_store, precision):
    words = ("method=eptq", "schedule=cpu", "cpu_steps=60", "calibrate.images=256", *SMALL[1:])
    trained = obliq(f"machine.precision={precision}", *words, store=own_store)
    assert trained.status == 0
    losses = [row[1] for row in trained.results["rounding"]["curve"]]
    assert all(loss == loss for loss in losses) and sum(losses[-5:]) < sum(losses[:5])
