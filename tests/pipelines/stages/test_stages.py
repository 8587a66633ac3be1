"""The whole chain on the digits, through the command line, in this process."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from pipelines.machine.disk import checksum
from pipelines.machine.machine import Machine
from pipelines.stages.activations import QuantizeActivations
from pipelines.stages.batchnorm import CorrectStatistics
from pipelines.stages.calibrate import Calibrate
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.loss_prediction import PredictLosses
from pipelines.stages.sensitivity import Sensitivity
from pipelines.stages.solving.solve import SolveLayer
from quant.activations import Place
from quant.packing import unpack
from quant.placement import Plan

KEYS = {
    "experiment", "model", "data", "method", "weight_bits", "act_bits", "seed", "versions",
    "machine", "float", "quantized", "n_images", "fidelity", "drop", "seconds", "cached",
    "baseline", "speedup", "loss_ratio_vs_baseline", "size_mb", "layers", "not_quantized",
    "correction", "uncorrected", "output_dir", "costs", "costs_at_16_bits", "cost_units", "device",
    "source", "settings", "fingerprints",
}  # fmt: skip
STAGES = {"calibrate", "sensitivity", "allocate", "quantize", "baseline", "batchnorm", "evaluate"}
SHORT = ("calibrate.images=120", "report.heatmaps=1")  # as no other file: nothing is stored yet


@pytest.fixture(scope="module")
def chain():
    """The results of one run at 3 bits, shared by the tests of this file."""
    return {}


@pytest.fixture
def outcome(obliq, chain, monkeypatch):
    """One run at 3 bits with layer stem.0 at 8, and the networks that it evaluated."""
    if not chain:
        networks, run = [], Evaluate.run

        def kept(self, module, *others):
            networks.append(module.value)
            return run(self, module, *others)

        monkeypatch.setattr(Evaluate, "run", kept)
        words = ("experiment=digits", "bits=3", "+precision.overrides={stem.0: 8}", *SHORT)
        chain["first"] = obliq(*words)
        chain["networks"] = networks
        chain["words"] = words
    assert chain["first"].status == 0, chain["first"].text
    return chain["first"]


def test_results_have_every_key_and_sane_values(outcome):
    results = outcome.results
    assert set(results) >= KEYS
    assert set(results["seconds"]) >= STAGES | {"total"} and set(results["cached"]) >= STAGES
    assert results["experiment"] == results["model"] == results["data"] == "digits"
    assert (results["method"], results["weight_bits"]) == ("row_parallel", 3)
    assert (results["act_bits"], results["seed"], results["n_images"]) == (None, 0, 500)
    assert {"torch", "obliq", "python"} <= set(results["versions"])
    assert {"cpu", "gpu", "cores"} <= set(results["machine"])
    assert 95 < results["float"]["top1"] <= results["float"]["top5"] <= 100
    assert 80 < results["quantized"]["top1"] <= 100
    assert 80 < results["fidelity"]["agreement"] <= 100 and 0 < results["fidelity"]["kl"] < 1
    low, high = results["drop"]["ci95"]
    assert low <= results["drop"]["points"] <= high
    assert results["speedup"] > 0 and 0.5 < results["loss_ratio_vs_baseline"] < 1.2
    for layer in results["layers"]:
        assert {"name", "shape", "groups", "bits", "loss", "loss_rtn", "seconds"} <= set(layer)
        assert 0 < layer["loss"] <= layer["loss_rtn"]
        assert 0 <= layer["cluster"] <= 1 and set(layer["predicted_loss"]) == set("2345678")


def test_results_say_what_they_come_from(outcome, digits):
    results, (network, data) = outcome.results, digits
    prints = results["fingerprints"]
    assert prints["network"] == network.key and prints["checkpoint"] is None
    assert prints["evaluation"] == data.evaluation_key, "the same images whatever calibrates"
    assert prints["weights"] == checksum(outcome.folder / "model.safetensors")
    settings = results["settings"]
    assert settings["bits"] == 3 and settings["precision"]["overrides"] == {"stem.0": 8}
    assert settings["calibrate"]["seed"] == 0, "resolved"
    assert "tracking" not in settings and set(settings) > {"model", "data", "grid", "machine"}
    assert {"commit", "dirty", "diff", "untracked"} <= set(results["source"])


def test_files_and_table_are_there(outcome):
    names = {path.name for path in outcome.folder.iterdir()}
    assert {"results.json", "layers.csv", "report.html", "model.safetensors"} <= names
    assert not [name for name in names if ".new" in name], "no drafts"
    for word in ("top-1", "quantization time", "size", str(outcome.folder)):
        assert "".join(word.split()) in "".join(outcome.text.split())
    for stage in STAGES:
        assert sum(line.startswith(f"  ✓ {stage} ") for line in outcome.text.splitlines()) == 1


def test_costs_are_those_of_the_layers_at_their_bits(outcome, digits):
    results, macs = outcome.results, {}

    def count(name):
        def hook(module, inputs, output):
            macs[name] = module.weight[0].numel() * output[0].numel()

        return hook

    network = deepcopy(digits[0].module)
    for layer in results["layers"]:
        network.get_submodule(layer["name"]).register_forward_hook(count(layer["name"]))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 8, 8))
    bits = {layer["name"]: layer["bits"] for layer in results["layers"]}
    assert set(bits.values()) == {3, 8}
    chosen = sum(macs[name] * bits[name] * 16 for name in bits) / 1e9
    assert results["costs"]["bops"] == pytest.approx(chosen, rel=1e-9)
    assert results["costs_at_16_bits"]["bops"] == pytest.approx(sum(macs.values()) * 256 / 1e9)
    assert results["costs"]["roofline"] <= results["costs_at_16_bits"]["roofline"]
    assert results["cost_units"] == {"size": "MB", "bops": "GBOPs", "roofline": "ms"}
    assert "A100" in results["device"] and "GBOPs" in outcome.text


def test_drop_speedup_size_and_loss_ratio_follow_from_their_definitions(outcome, chain, digits):
    results = outcome.results
    points = results["float"]["top1"] - results["quantized"]["top1"]
    assert results["drop"]["points"] == pytest.approx(points, abs=1e-9)
    assert results["baseline"]["loss"] == pytest.approx(
        sum(layer["loss_baseline"] for layer in results["layers"])
    )
    assert not results["baseline"]["estimated"]
    assert results["baseline"]["rows_run"] == results["baseline"]["rows_total"]
    assert results["baseline"]["rows_total"] == sum(x["shape"][0] for x in results["layers"])
    solving = sum(layer["seconds"] for layer in results["layers"])
    assert results["seconds"]["quantize"] == pytest.approx(solving)
    assert results["speedup"] == pytest.approx(results["baseline"]["seconds"] / solving)
    logs = [math.log(x["loss"] / x["loss_baseline"]) for x in results["layers"]]
    assert results["loss_ratio_vs_baseline"] == pytest.approx(math.exp(sum(logs) / len(logs)))

    state = digits[0].module.state_dict()
    whole = sum(t.numel() * t.element_size() for t in state.values())
    kept = whole - sum(4 * math.prod(x["shape"]) for x in results["layers"])
    tensors = load_file(outcome.folder / "model.safetensors")
    packed = sum(
        t.numel() * t.element_size()
        for name, t in tensors.items()
        if name.rsplit(":", 1)[-1] in ("codes", "scale", "zero")
    )
    assert results["size_mb"]["float"] == pytest.approx(whole / 1e6)
    size = (outcome.folder / "model.safetensors").stat().st_size
    assert results["size_mb"]["quantized"] == size / 1e6
    held = sum(t.numel() * t.element_size() for t in tensors.values())
    assert held == kept + packed, "everything is there once"
    with open(outcome.folder / "model.safetensors", "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert size == held + header
    codes = sum(-(-math.prod(x["shape"]) * x["bits"] // 8) for x in results["layers"])
    grids = sum(5 * x["shape"][0] for x in results["layers"])  # float32 step, 8-bit zero a row
    assert packed == pytest.approx(codes + grids, abs=16 * len(results["layers"]))


def decoded(path):
    """Weights by name from the file alone; codes and grids are checked on the way."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        layout = json.loads(file.metadata()["obliq"])["layers"]
    weights = {}
    for name, about in layout.items():
        bits, shape = about["bits"], tuple(about["shape"])
        codes = unpack(tensors[f"{name}:codes"], bits, shape).double()
        scale, zero = tensors[f"{name}:scale"].double(), tensors[f"{name}:zero"].double()
        assert codes.min() >= 0 and codes.max() <= 2**bits - 1 and (codes == codes.round()).all()
        assert (scale > 0).all() and about["group_size"] is None
        weights[about["weight"]] = (scale * (codes - zero)).reshape(about["of"])
    return weights, tensors, layout


def test_the_file_of_weights_decodes_to_the_network_that_was_evaluated(outcome, chain, digits):
    reference, evaluated = digits[0].module, chain["networks"][-1]
    weights, tensors, layout = decoded(outcome.folder / "model.safetensors")
    state, before = evaluated.state_dict(), reference.state_dict()
    assert len(weights) == 6 and {x["bits"] for x in layout.values()} == {3, 8}
    assert layout["stem.0"]["bits"] == 8
    for name, value in weights.items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-6, atol=1e-7)
        assert not torch.equal(state[name], before[name])
        levels = 2 ** layout[name.removesuffix(".weight")]["bits"]
        rows = state[name].flatten(1)
        assert all(len(row.unique()) <= levels for row in rows)
    for name, value in state.items():
        if name not in weights:
            assert torch.equal(value, tensors.get(name, before[name])), name


def test_a_second_run_recomputes_nothing_and_gives_the_same_numbers(
    obliq, outcome, chain, monkeypatch
):
    stages = (Calibrate, PredictLosses, Sensitivity, SolveLayer, CorrectStatistics, Evaluate)
    for stage in stages:
        monkeypatch.setattr(stage, "run", lambda *args, **more: pytest.fail("computed again"))
    monkeypatch.setattr(Machine, "predict", lambda *args: pytest.fail("the network was run"))
    second = obliq(*chain["words"])
    assert second.status == 0, second.text
    assert all(second.results["cached"].values()) and not any(outcome.results["cached"].values())
    assert second.text.count("from the store") >= len(STAGES)
    same = KEYS - {"cached", "seconds", "output_dir", "machine", "source"}
    for key in same:
        assert second.results[key] == outcome.results[key], key
    for stage in STAGES:
        assert second.results["seconds"][stage] == outcome.results["seconds"][stage]
    first_file, second_file = (load_file(x.folder / "model.safetensors") for x in (outcome, second))
    assert all(torch.equal(first_file[name], second_file[name]) for name in first_file)


def test_the_loss_predicted_at_the_runs_bits_is_that_of_plain_rounding(outcome):
    for layer in outcome.results["layers"]:
        predicted = layer["predicted_loss"][str(layer["bits"])]
        assert predicted == pytest.approx(layer["loss_rtn"], rel=1e-6), layer["name"]


def test_another_width_predicts_no_loss_again(obliq, outcome, chain, monkeypatch):
    monkeypatch.setattr(PredictLosses, "run", lambda *args: pytest.fail("predicted again"))
    other = obliq(*chain["words"], "bits=2")
    assert other.status == 0, other.text
    assert not other.results["cached"]["sensitivity"]  # the other half of it was computed
    pairs = list(zip(other.results["layers"], outcome.results["layers"], strict=True))
    assert any(a["bits"] != b["bits"] for a, b in pairs)
    for a, b in pairs:
        assert a["predicted_loss"] == b["predicted_loss"]
        assert (a["sensitivity"] != b["sensitivity"]) == (a["bits"] != b["bits"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_one_other_images(
    obliq, outcome, chain, tmp_path
):
    own = tmp_path / "another store"
    again = obliq(*chain["words"], store=own)  # trains the network anew, too
    numbers = "float", "quantized", "fidelity", "drop", "correction", "loss_ratio_vs_baseline"
    assert not any(again.results["cached"].values())
    for key in numbers:
        assert again.results[key] == outcome.results[key], key
    first_file, second_file = (load_file(x.folder / "model.safetensors") for x in (outcome, again))
    assert all(torch.equal(first_file[name], second_file[name]) for name in first_file)

    other = obliq(*chain["words"], "seed=1", "method=rtn", store=own)
    assert not other.results["cached"]["calibrate"]
    records = [json.loads(p.read_text()) for p in (own / "Calibrate").glob("*/record.json")]
    first_ids, other_ids = (set(record["ids"]) for record in records)
    assert len(first_ids) == len(other_ids) == 120 and first_ids != other_ids
    assert other.results["seed"] == 1 and again.results["seed"] == 0


@pytest.mark.parametrize("mode", ["reestimate", "none"])
def test_other_corrections_run(obliq, outcome, chain, mode):
    found = obliq(*chain["words"], f"batchnorm={mode}")
    assert found.status == 0, found.text
    assert found.results["correction"]["mode"] == mode
    assert found.results["cached"]["quantize"] and found.results["cached"]["calibrate"]
    if mode == "none":
        assert found.results["quantized"] == found.results["means_moved"]


def test_sequential_inputs_run_and_differ_from_float_ones(obliq, outcome, chain):
    found = obliq(*chain["words"], "quantize.inputs=sequential", "method=rtn", "baseline.budget=0")
    assert found.status == 0, found.text
    plain = obliq(*chain["words"], "method=rtn", "baseline.budget=0")
    losses = [{x["name"]: x["loss"] for x in each.results["layers"]} for each in (found, plain)]
    assert losses[0]["stem.0"] == pytest.approx(losses[1]["stem.0"], rel=1e-3)
    assert losses[0]["classifier"] != pytest.approx(losses[1]["classifier"], rel=1e-3)
    again = obliq(*chain["words"], "quantize.inputs=sequential", "method=rtn", "baseline.budget=0")
    assert all(again.results["cached"].values())


def test_quantized_activations_cost_accuracy_the_fewer_bits_they_have(obliq, chain, outcome):
    words = (*chain["words"], "baseline.budget=0")
    found = {bits: obliq(*words, f"act_bits={bits}") for bits in (8, 2)}
    for bits, run in found.items():
        assert run.status == 0, run.text
        results = run.results
        assert results["act_bits"] == bits and results["activations_not_quantized"] == {}
        ends = {layer["name"]: layer["act_bits"] for layer in results["layers"]}
        assert ends.pop("stem.0") == ends.pop("classifier") == 8
        assert set(ends.values()) == {bits}
        assert f"w3a{bits}" in run.text and results["cached"]["quantize"]
    plain = outcome.results["fidelity"]["kl"]
    assert abs(found[8].results["fidelity"]["kl"] - plain) < 0.2 * plain
    assert found[2].results["fidelity"]["kl"] > 2 * plain
    tensors = load_file(found[8].folder / "model.safetensors")
    assert tensors["down.0:act_scale"] > 0 and "classifier:act_zero" in tensors
    again = obliq(*words, "act_bits=2")
    assert all(again.results["cached"].values())
    overridden = obliq(*words, "act_bits=2", "+activations.overrides={nothing: 4}")
    assert overridden.status == 1 and "names 'nothing'" in overridden.text


def test_activations_can_be_quantized_where_they_are_made(obliq, chain, outcome):
    words = (*chain["words"], "baseline.budget=0", "act_bits=3", "activations.placement=outputs")
    found = obliq(*words)
    assert found.status == 0, found.text
    results = found.results
    assert results["activations_not_quantized"] == {}
    bits = {layer["name"]: layer["act_bits"] for layer in results["layers"]}
    assert bits.pop("stem.0") == bits.pop("classifier") == 8 and set(bits.values()) == {3}
    tensors = load_file(found.folder / "model.safetensors")
    with safe_open(found.folder / "model.safetensors", "pt") as file:
        places = json.loads(file.metadata()["obliq"])["activations"]
    told = {name: place["bits"] for name, place in places.items()}
    behind = {f"{block}.2:output" for block in ("stem", "depthwise", "pointwise", "down", "last")}
    doors = {"stem.0": 8, "classifier": 8}  # the image; a mean by a function
    assert told == {**dict.fromkeys(behind, 3), **doors}
    assert all(tensors[f"{name}:act_scale"] > 0 for name in told)
    refused = obliq(*words, "precision=mixed", "precision.activations=true")
    assert refused.status == 1 and "activations.placement=inputs, not outputs" in refused.text
    refused = obliq(*words, "activations.placement=doors")
    assert refused.status == 1 and "must be one of inputs, outputs" in refused.text


def test_a_tensor_that_several_layers_take_has_the_most_bits_that_one_asks_for():
    stage = QuantizeActivations("outputs", 3, 8, {}, False, "mse", 99.99, 8)
    places = {name: Place(name, behind=True) for name in ("a", "b", "between")}
    plan = Plan(places, {"first": ("a",), "second": ("a", "b"), "third": ("b",)}, {})
    found = stage.bits_at(plan, {"first": 8, "second": 4, "third": 2})
    assert found == {"a": 8, "b": 4, "between": 3}


@pytest.mark.parametrize("inputs", ["centred", "sequential"])
def test_inputs_without_their_mean_leave_mean_outputs_where_they_were(
    obliq, chain, outcome, digits, inputs
):
    words = (*chain["words"], f"quantize.inputs={inputs}", "batchnorm=none")
    found = obliq(*words, "bits=2", "method=rtn")
    assert found.status == 0, found.text
    reference, data = digits[0].module, deepcopy(digits[1])
    data.prepare(digits[0].data_config, 120, 0, 64)  # the images that the command took
    images = torch.cat([x for x, _ in data.calibration_loader()])
    weights, state, _ = decoded(found.folder / "model.safetensors")
    Q = weights["stem.0.weight"].float()
    stem = reference.stem
    with torch.no_grad():
        moved = F.conv2d(images[:, :1], Q - stem[0].weight, padding=1).mean((0, 2, 3))
    change = state["stem.1.running_mean"] - stem[1].running_mean
    assert float(change.abs().max()) > 1e-4
    torch.testing.assert_close(change, moved, rtol=1e-3, atol=1e-5)


def test_wandb_offline_is_recorded_and_shown(obliq, outcome, chain):
    found = obliq(*chain["words"], "tracking=offline")
    assert found.status == 0, found.text
    (folder,) = (found.folder / "wandb").glob("offline-run-*")
    assert f"W&B                 {folder}" in found.text and list(folder.glob("*.wandb"))


@pytest.fixture
def no_cholesky(monkeypatch):
    """The factorisation of the layer `last` fails."""
    factor = torch.linalg.cholesky_ex

    def fails(A, **more):
        L, info = factor(A, **more)
        return L, torch.ones_like(info) if A.shape[-1] == 432 else info

    monkeypatch.setattr(torch.linalg, "cholesky_ex", fails)


def test_a_failed_cholesky_in_a_solve_names_the_layer_and_the_remedy(
    obliq, outcome, chain, no_cholesky
):
    found = obliq(*chain["words"], "method=gptq")
    text = " ".join(found.text.split())
    assert found.status == 1 and "Raise the damping" in text and "(in layer last.0)" in text
    assert "✓ sensitivity" in text and "Traceback" not in text


def test_a_failed_cholesky_in_the_analysis_names_the_layer_too(obliq, no_cholesky):
    found = obliq("experiment=digits", "damping=0.0123", *SHORT)
    text = " ".join(found.text.split())
    assert found.status == 1 and "Raise the damping" in text and "last.0" in text


def test_the_quantized_weights_alone_and_the_moved_means_are_two_steps(obliq, outcome, chain):
    """`uncorrected` has the weights and float statistics; the means move with inputs=centred."""
    moved = outcome.results
    assert moved["means_moved"] is not None and moved["means_moved_fidelity"]["kl"] > 0
    assert moved["uncorrected_fidelity"]["kl"] > moved["means_moved_fidelity"]["kl"]
    plain = obliq(*chain["words"], "quantize.inputs=float", "method=rtn", "baseline=none")
    assert plain.status == 0, plain.text
    results = plain.results
    assert results["means_moved"] is results["means_moved_fidelity"] is None
    assert results["baseline"] is results["speedup"] is results["loss_ratio_vs_baseline"] is None
    assert "no baseline was run" in plain.text and "baseline" not in results["seconds"]
