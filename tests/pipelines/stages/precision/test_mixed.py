"""precision=mixed on the digits: what is measured, what is chosen, and what is refused."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from pipelines.machine.machine import Machine
from pipelines.stages.calibrate import Calibrate, layers_of
from pipelines.stages.precision.perturbations import (
    CollectPerturbations,
    MeasurePerturbations,
    Perturbation,
)
from pipelines.stages.precision.traces import MeasureTraces
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from quant import activations
from quant.mixed.search import SEARCHES, quadratic
from quant.ranges import TensorGrid

MACHINE = Machine("cpu", 1, "32-true", None)
SHORT = (
    "precision=mixed",
    "precision.choices=[2,3,8]",
    "precision.cost=size",
    "precision.measure=agreement",
    "precision.target=0.99",
    "calibrate.images=128",
    "precision.perturbations.images=64",
    "precision.traces.images=32",
    "baseline.rows=1",
    "baseline.budget=0",
    "pictures.count=0",
)


@pytest.fixture(autouse=True)
def _proved(monkeypatch):
    """Integer programmes end by their proofs, however slow the processor is."""
    monkeypatch.setitem(SEARCHES, "quadratic", partial(quadratic, seconds=math.inf))


@pytest.fixture(scope="module")
def opened(digits, tmp_path_factory):
    """Network, data, its layers, a copy that is open to changes, and eight changes."""
    network, data = digits
    stage = Calibrate(len(data.calibration), 1024, 16, None, 0)
    store = Store(tmp_path_factory.mktemp("store"))
    layers = layers_of(store.run(stage, network, Keyed(data, data.calibration_key), MACHINE))
    names = list(layers)[:4]
    grid = TensorGrid(torch.tensor(0.5), torch.tensor(1.0), 2)
    places = [activations.input_place(layers[name]) for name in names]
    module = activations.prepared(network.module, places)
    draw = torch.Generator().manual_seed(0)
    changes = []
    for name in names:
        W = network.module.get_parameter(layers[name].weight).detach()
        for bits, size in ((2, 0.2), (4, 0.05)):
            noise = torch.randn(W.shape, generator=draw) * size * W.std()
            norm = layers[name].norm
            mean = network.module.get_buffer(norm) + 0.01 if norm else None
            changes.append(
                Perturbation(layers[name], bits, W + noise, mean, grid if bits == 2 else None)
            )
    return network, data, layers, module, changes


def changed(module, change):
    """A copy with the change, made by hand."""
    copy = deepcopy(module)
    with torch.no_grad():
        copy.get_parameter(change.layer.weight).copy_(change.weight)
        if change.mean is not None:
            copy.get_buffer(change.layer.norm).copy_(change.mean)
    if change.grid is not None:
        owner = copy.get_submodule(change.layer.owner)
        owner.register_forward_pre_hook(lambda m, args: (change.grid.round(args[0]),))
    return copy


def test_a_change_does_what_it_says_and_leaves_no_trace(opened):
    network, data, _, module, changes = opened
    x, _ = next(iter(data.calibration_loader()))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with torch.no_grad():
        untouched = module(x)
        assert torch.equal(untouched, network.module(x))
        for change in changes:
            with change.applied_to(module):
                found = module(x)
            assert torch.allclose(found, changed(network.module, change)(x), atol=1e-5)
            assert not torch.equal(found, untouched)
            assert torch.equal(module(x), untouched)
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_change_is_undone_where_the_network_fails_in_it(opened):
    _, data, _, module, changes = opened
    x, _ = next(iter(data.calibration_loader()))
    untouched = module(x)
    with pytest.raises(RuntimeError, match="stop"), changes[0].applied_to(module):
        raise RuntimeError("stop")
    assert torch.equal(module(x), untouched)


def by_hand(opened, images):
    """Couplings and divergences from networks changed one by one, in float64."""
    network, data, _, _, changes = opened
    x = torch.cat([x for x, _ in data.calibration_loader(first=images)])
    with torch.no_grad():
        f = network.module(x).double()
        U = torch.stack([changed(network.module, c)(x).double() - f for c in changes])
    p = f.softmax(1)
    F_ = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    A = torch.einsum("ixa,xab,jxb->ij", U, F_, U) / len(x)
    log_p = f.log_softmax(1)
    alone = [F.kl_div((f + u).log_softmax(1), log_p, log_target=True, reduction="sum") for u in U]
    return A, torch.stack(alone) / len(x)


def measured(opened, stage, scratch, batch=None):
    _, data, _, module, changes = opened
    if batch:
        data = deepcopy(data)
        data._calibration_batch_size = batch
    return stage.run(
        Keyed(module, ""), Keyed(changes, ""), Keyed(data, ""), MACHINE, scratch=scratch
    )


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_couplings_and_divergences_equal_those_of_networks_changed_by_hand(opened, tmp_path, batch):
    found = measured(opened, MeasurePerturbations(40), tmp_path, batch)
    A, alone = by_hand(opened, 40)
    scale = A.diagonal().sqrt()
    off = (found.tensors["couplings"] - A) / (scale[:, None] * scale)
    assert float(off.abs().max()) < 1e-3  # outputs are float32, and differences of them
    assert torch.allclose(found.tensors["divergence"], alone, rtol=1e-3, atol=1e-7)
    assert found.record["images"] == 40
    assert found.record["seconds_couplings"] > 0


def test_traces_agree_with_gradients_of_the_networks_own_decisions(opened):
    """tr H = sum over weights and classes of p (d log p / dw)^2: no second derivatives."""
    network, data, layers, _, _ = opened
    stage = MeasureTraces(16, 100, 0)
    ran = stage.run(network, Keyed(layers, ""), Keyed(data, ""), MACHINE)
    found, few = ran.tensors["trace"], MeasureTraces(16, 1, 0)
    assert ran.record == {"layers": list(layers), "images": 16}
    assert (
        few.run(network, Keyed(layers, ""), Keyed(data, ""), MACHINE).tensors["trace"] > 0
    ).all()
    x = torch.cat([x for x, _ in data.calibration_loader(first=16)])
    weights = [network.module.get_parameter(layer.weight) for layer in layers.values()]
    wanted = torch.zeros(len(weights))
    for image in x:
        for weight in weights:
            weight.requires_grad_(True)
        log_p = network.module(image[None]).log_softmax(1)[0]
        for c in range(len(log_p)):
            gradients = torch.autograd.grad(log_p[c], weights, retain_graph=True)
            for i, g in enumerate(gradients):
                wanted[i] += log_p[c].detach().exp() * g.square().sum() / len(x)
    for weight in weights:
        weight.requires_grad_(False)
    assert torch.allclose(found.float(), wanted, rtol=0.15)


def test_an_interrupted_measurement_goes_on_with_the_same_numbers(opened, tmp_path, monkeypatch):
    stage = MeasurePerturbations(64)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = measured(opened, stage, tmp_path / "a").tensors
    add, calls = CollectPerturbations._add, []

    def dies(self, x):
        if len(calls) == 2:
            raise RuntimeError("killed")
        calls.append(len(x))
        add(self, x)

    monkeypatch.setattr("pipelines.stages.precision.perturbations.SAVE_EVERY", 0.0)
    monkeypatch.setattr(CollectPerturbations, "_add", dies)
    with pytest.raises(RuntimeError, match="killed"):
        measured(opened, stage, tmp_path / "b")
    seen = []
    monkeypatch.setattr(
        CollectPerturbations, "_add", lambda self, x: (seen.append(len(x)), add(self, x))
    )
    rest = measured(opened, stage, tmp_path / "b").tensors
    assert sum(calls) == 32 and sum(seen) == 32
    assert all(torch.allclose(rest[k], whole[k], rtol=1e-12) for k in whole)


def test_what_was_measured_is_saved_every_minute(opened, tmp_path, monkeypatch, passes):
    """Four batches of 16 images and 25 seconds."""
    saved, step, save = [], CollectPerturbations.predict_step, CollectPerturbations.save
    monkeypatch.setattr(
        CollectPerturbations, "predict_step", lambda *args: passes(25.0) or step(*args)
    )
    monkeypatch.setattr(
        CollectPerturbations, "save", lambda self: saved.append(self.sums.n) or save(self)
    )
    measured(opened, MeasurePerturbations(64), tmp_path)
    assert saved == [3 * 16]


@pytest.mark.parametrize("name", ["images", "draws"])
def test_measuring_nothing_is_refused(name):
    with pytest.raises(ValueError, match=r"precision\.perturbations\.images=0"):
        MeasurePerturbations(0)
    with pytest.raises(ValueError, match=rf"precision\.traces\.{name}=0"):
        MeasureTraces(**{"images": 1, "draws": 1, "seed": 0, name: 0})


def test_the_chain_keeps_the_target_and_says_what_it_chose(obliq):
    outcome = obliq(*SHORT)
    assert outcome.status == 0, outcome.text
    results = outcome.results
    found = results["precision"]
    assert found["reached"] and found["value"] >= 0.99 * 100
    assert found["evaluations"] == len(found["tried"]) > 1
    assert {row["bits"] for row in results["layers"]} <= {2, 3, 8}
    weights = [torch.Size(row["shape"]).numel() for row in results["layers"]]
    bits = [row["bits"] for row in results["layers"]]
    mean = sum(w * b for w, b in zip(weights, bits, strict=True)) / sum(weights)
    assert results["weight_bits"] == pytest.approx(mean, abs=1e-3) and mean < 8
    assert found["costs"]["size"] < found["costs_widest"]["size"]
    assert set(found["costs"]) == {"size", "bops", "roofline"}
    assert "mixed, on average" in outcome.text and "target 99 %" in outcome.text
    html = (outcome.folder / "report.html").read_text()
    assert "Bits per layer" in html and "99.00% of" not in html
    for plot in ("tried", "bits_per_layer"):
        assert (outcome.folder / "plots" / f"{plot}.svg").exists()


@pytest.mark.parametrize(
    ("metric", "search"),
    [
        ("hessian_trace", "bisection"),
        ("loss_delta", "greedy"),
        ("quantization_error", "bisection"),
        ("inter_layer", "greedy"),
        ("loss_delta", "quadratic"),
    ],
)
def test_every_metric_goes_with_every_search(obliq, metric, search):
    outcome = obliq(*SHORT, f"precision.metric={metric}", f"precision.search={search}")
    assert outcome.status == 0, outcome.text
    found = outcome.results["precision"]
    assert found["reached"] and found["metric"] == metric and found["search"] == search
    met = [cost for cost, value in found["tried"] if value >= 99]
    assert found["costs"]["size"] == pytest.approx(min(met))


def test_a_second_target_tries_nothing_twice(obliq, own_store):
    store = own_store

    def stored(stage):
        return len(list((store / stage).glob("*/done.json")))

    words = (*SHORT, "precision.search=bisection")
    first = obliq(*words, store=store).results
    tried = stored("EvaluateConfiguration")
    assert tried == first["precision"]["evaluations"]
    assert obliq(*words, store=store).results["cached"]["allocate"]
    other = obliq(*words, "precision.target=0.95", store=store).results
    assert stored("EvaluateConfiguration") < tried + other["precision"]["evaluations"]
    assert stored("MeasurePerturbations") == 1
    assert not stored("MeasureTraces"), "no metric needs them"
    assert obliq(*words, "precision.metric=hessian_trace", store=store).status == 0
    assert stored("MeasurePerturbations") == stored("MeasureTraces") == 1


def test_a_target_out_of_reach_gives_the_best_and_status_3(obliq):
    outcome = obliq(*SHORT, "precision.choices=[1]", "precision.target=1.0")
    assert outcome.status == 3
    found = outcome.results["precision"]
    assert not found["reached"] and found["value"] == max(value for _, value in found["tried"])
    assert "out of reach" in outcome.text and "precision.choices" in outcome.text
    assert outcome.results["quantized"]["top1"] > 0, "the run is whole nevertheless"


def test_overrides_are_left_alone(obliq):
    outcome = obliq(*SHORT, "+precision.overrides.classifier=5")
    assert outcome.status == 0, outcome.text
    bits = {row["name"]: row["bits"] for row in outcome.results["layers"]}
    assert bits.pop("classifier") == 5 and set(bits.values()) <= {2, 3, 8}


def test_the_ends_are_left_alone_and_the_rounding_can_be_trained_behind(obliq):
    words = ("method=eptq", "schedule=cpu", "cpu_steps=10", "method.held_out=32")
    outcome = obliq(*SHORT, *words)
    assert outcome.status == 0, outcome.text
    bits = [row["bits"] for row in outcome.results["layers"]]
    assert bits[0] == bits[-1] == 8 and set(bits[1:-1]) <= {2, 3, 8}
    assert outcome.results["rounding"]["steps"] == 10 and outcome.results["precision"]["reached"]


def test_inputs_get_the_bits_of_their_weights_if_asked(obliq):
    outcome = obliq(*SHORT, "precision.activations=true", "precision.choices=[4,8]")
    assert outcome.status == 0, outcome.text
    rows = outcome.results["layers"]
    assert all(row["act_bits"] == row["bits"] for row in rows)
    found = outcome.results["precision"]
    assert found["costs"]["bops"] < found["costs_widest"]["bops"]


def test_labels_change_nothing_where_agreement_is_asked_for(digits, obliq, monkeypatch):
    from evaluation.digits import Digits

    first = obliq(*SHORT).results
    pools = Digits.pools

    def unlabelled(self):
        from dataclasses import replace

        pool, evaluation = pools(self)
        return replace(pool, labels=(0,) * len(pool)), evaluation

    monkeypatch.setattr(Digits, "pools", unlabelled)
    second = obliq(*SHORT).results
    assert [r["bits"] for r in first["layers"]] == [r["bits"] for r in second["layers"]]
    assert first["precision"]["tried"] == second["precision"]["tried"]


def test_ranges_found_otherwise_are_tried_anew(obliq):
    """Figures of one kind of range must not be served for another."""
    words = (*SHORT, "precision.activations=true", "precision.choices=[2,3]")
    found = [obliq(*words, f"activations.search={s}").results for s in ("minmax", "mse")]
    minmax, mse = (dict(map(tuple, r["precision"]["tried"])) for r in found)
    alike = minmax.keys() & mse.keys()
    assert alike and any(minmax[cost] != mse[cost] for cost in alike)


def test_layers_are_timed_where_that_is_the_cost(obliq):
    words = ("precision.costs.measured.repeats=3", "precision.costs.measured.warmup=1")
    outcome = obliq(*SHORT, "precision.cost=measured", "precision.activations=true", *words)
    assert outcome.status == 0, outcome.text
    found = outcome.results["precision"]
    assert found["unit"] == "ms" and set(found["costs"]) == {"size", "bops", "roofline", "measured"}
    assert found["costs"]["measured"] > 0


def test_predictions_are_checked_where_that_is_asked_for(obliq):
    outcome = obliq(*SHORT, "precision.check_predictions=12")
    assert outcome.status == 0, outcome.text
    found = outcome.results["precision"]["correlation"]
    assert set(found["random"]) == set(found["single"]) == set(found["points"])
    assert found["random"]["inter_layer"] > 0.8 and found["single"]["inter_layer"] > 0.8
    assert all(len(points) == 12 for points in found["points"].values())
    assert len(found["pair_points"]) == 12
    assert (outcome.folder / "plots" / "correlation.svg").exists()
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("precision.target=0", "precision.target=0 must lie in"),
        ("precision.target=99.9", "precision.target=99.9 must lie in"),
        ("precision.metric=fisher", "must be one of inter_layer"),
        ("precision.search=random", "must be one of bisection"),
        ("precision.cost=watts", "must be one of size"),
        ("precision.measure=loss", "must be one of metric"),
        ("precision.choices=[]", "precision.choices is empty"),
        ("precision.choices=[4,17]", "precision.choices[1]=17"),
        ("precision.images=0", "precision.images=0"),
        ("precision.check_predictions=2", "precision.check_predictions=2"),
        ("+precision.overrides.nowhere=4", "no layer of this network"),
    ],
)
def test_what_cannot_work_is_refused_at_once(obliq, word, message):
    outcome = obliq("precision=mixed", word)
    assert outcome.status == 1 and message in outcome.text.replace("\n", " "), outcome.text
    assert "calibrate" not in outcome.text or "✓ calibrate" not in outcome.text
