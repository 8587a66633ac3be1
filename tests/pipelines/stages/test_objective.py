"""What a search over settings minimises: from calibration images alone."""

from __future__ import annotations

import json
import math
from copy import copy, deepcopy
from dataclasses import dataclass

import pytest
import torch

from evaluation.digits import Digits
from pipelines.comparing import discovery
from pipelines.machine.machine import Machine
from pipelines.stages import objective
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.objective import Divergence, LayerLoss, ObjectiveContext
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store

MACHINE = Machine("cpu", 1, "32-true", None)


def test_held_out_images_are_the_same_ones_however_many_there_are(digits):
    network, data = digits
    found = []
    for images in (40, 96, 200):
        own = copy(data)
        own.prepare(network.data_config, images, seed=3, calibration_batch_size=16)
        evaluation = own.evaluation.ids
        held_out = own.hold_out(32)
        assert len(own.calibration) == images - 32
        assert not set(own.calibration.ids) & set(held_out.calibration.ids)
        assert not set(own.evaluation.ids) & set(held_out.calibration.ids)
        assert own.evaluation.ids == evaluation
        assert own.calibration_key != held_out.calibration_key
        found.append(held_out.calibration.ids)
    assert found[0] == found[1] == found[2]


def test_at_least_one_image_must_be_left_to_calibrate_on(digits):
    own = copy(digits[1])
    with pytest.raises(ValueError, match=r"objective\.images=96 leaves none of 96"):
        own.hold_out(96)
    assert len(own.hold_out(0).calibration) == 0 and len(own.calibration) == 96
    with pytest.raises(ValueError, match=r"objective\.images=0 must be at least 1"):
        Divergence(0, 128)


def test_the_divergence_is_the_mean_kl_on_the_held_out_images(digits, tmp_path):
    network, data = digits
    own = copy(data)
    held_out = own.hold_out(40)
    changed = deepcopy(network.module)
    generator = torch.Generator().manual_seed(0)
    for value in changed.parameters():
        value.data += 0.02 * torch.randn(value.shape, generator=generator)
    given = ObjectiveContext(
        store=Store(tmp_path),
        network=network,
        module=Keyed(changed, "changed"),
        weights=QuantizedWeights.__new__(QuantizedWeights),  # not looked at
        held_out=Keyed(held_out, held_out.calibration_key),
        machine=MACHINE,
    )
    record = Divergence(40, 128).measure(given)
    images = torch.cat([x for x, _ in held_out.calibration_loader()])
    with torch.inference_mode():
        p, q = (m(images).double().log_softmax(1) for m in (network.module, changed))
    expected = float((p.exp() * (p - q)).sum(1).mean())
    assert record["name"] == "kl" and record["value"] == pytest.approx(expected, rel=1e-9)
    assert expected > 1e-4, "something to measure"
    assert record["agreement"] == pytest.approx(
        100 * float((p.argmax(1) == q.argmax(1)).double().mean())
    )


def test_the_layer_loss_is_a_geometric_mean_of_ratios():
    class Solution:
        def __init__(self, loss, rtn):
            self.tensors = {"loss": torch.tensor(loss), "loss_rtn": torch.tensor(rtn)}

    class AllocationContext:
        class weights:  # noqa: N801
            solutions = {  # noqa: RUF012
                "a": Solution([1.0, 1.0], [4.0, 4.0]),
                "b": Solution([2.0], [2.0]),
                "c": Solution([0.0], [0.0]),
            }

    assert LayerLoss().measure(AllocationContext())["value"] == pytest.approx(
        math.exp(math.log(0.25) / 3)
    )


@pytest.fixture
def blind(monkeypatch):
    """Whatever looks at evaluation images or their figures fails."""

    def looked(self, *args, **more):
        raise AssertionError("a search looks at the evaluation images")

    for name in ("test_dataloader", "metrics", "drop", "fidelity", "details", "picture", "outputs"):
        monkeypatch.setattr(Digits, name, looked)
    monkeypatch.setattr(Evaluate, "run", looked)


SHORT = ("experiment=digits", "calibrate.images=96", "objective.images=32", "method=gptq", "bits=2")


@pytest.mark.slow
def test_a_search_never_looks_at_the_evaluation_images(obliq, blind, shared_store, digits):
    words = ("hydra.sweeper.trials=3", "hydra.sweeper.startup=2", "hydra.sweeper.max_batch_size=2")
    found = obliq("-m", "hparams=damping", *SHORT, *words)
    assert found.status == 0, found.text
    assert not list(found.folder.rglob("results.json"))
    with pytest.raises(FileNotFoundError, match="no run below"):
        discovery.find([found.folder])
    study = json.loads((found.folder / "study.json").read_text())
    assert [row["number"] for row in study["trials"]] == [0, 1, 2]
    assert study["trials"][0]["settings"] == {"damping": 0.01}, "the default is the first"
    best = min(study["trials"], key=lambda row: row["value"])
    assert study["best"] == best["settings"] and study["value"] == best["value"]
    assert f"best of 3: damping={best['settings']['damping']:.4g}" in found.text
    for row in study["trials"]:
        record = json.loads((found.folder / str(row["number"]) / "objective.json").read_text())
        assert record["objective"]["value"] == row["value"] == record["objective"]["kl"]
        assert record["calibrated_on"] == 64 and record["held_out"] == 32
        assert f"damping={row['settings']['damping']}" in record["command"]
    network, data = digits
    data = copy(data)
    data.prepare(network.data_config, 96, 0, 16)
    held_out = set(data.calibration.ids[:32])
    records = [
        json.loads(p.read_text()) for p in (shared_store / "Calibrate").glob("*/record.json")
    ]
    mine = [set(record["ids"]) for record in records if len(record["ids"]) == 64]
    assert mine and all(not ids & held_out for ids in mine)


def test_a_search_without_an_objective_is_refused(obliq):
    interval = "damping=tag(log,interval(0.001,0.1))"
    found = obliq("-m", "hydra/sweeper=search", "experiment=digits", interval)
    assert found.status == 2 and "a search needs an objective: set objective=kl" in found.text
    found = obliq("-m", "hparams=damping", *SHORT, "damping=glob(*)")
    assert found.status == 2 and "not supported in a search. Use choice(a,b)" in found.text


def test_an_objective_of_a_users_own_needs_no_more_than_its_number_of_images():
    @dataclass(frozen=True)
    class Mine:
        images: int = 32

        def measure(self, context):
            return {"name": "mine", "value": 0.0}

    assert (objective.held_out_of(Mine(), 100), objective.fitted(Mine(), 100)) == (32, Mine())
    assert objective.held_out_of(LayerLoss(), 100) == objective.held_out_of(None, 100) == 0
    assert objective.held_out_of(Divergence(None, 128), 100) == 50
