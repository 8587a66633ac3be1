"""Sentences through the stages and through the whole chain; several calls of a layer in a run."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from evaluation.sst2 import Sst2
from pipelines.machine.machine import Machine
from pipelines.models.transformers import TransformersModel
from pipelines.stages import calibrate
from pipelines.stages.activations import QuantizeActivations
from pipelines.stages.calibrate import Calibrate, hessian_of, layers_of
from pipelines.stages.solving.activation_cache import ActivationCache
from pipelines.stages.solving.sequential import CollectPair
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from quant.label_free import tapped

MACHINE = Machine("cpu", 1, "32-true", None)
SHORT = ("baseline.budget=0", "report.heatmaps=0")


def loaded(folder, count=24, batch=8, max_length=12):
    network = TransformersModel("bert", str(folder), max_length).load(None)
    data = Sst2(str(folder), None, 64, 0, False, None, 2)
    data.prepare(network.data_config, count, 0, batch)
    return network, data


def one_by_one(module, data, names):
    """What enters each Linear, sentence by sentence without padding: [positions, c], float64."""
    seen = {name: [] for name in names}

    def note(name):
        return lambda _, args: seen[name].append(args[0].double().flatten(0, -2))

    hooks = [module.get_submodule(n).register_forward_pre_hook(note(n)) for n in names]
    with torch.inference_mode():
        for x, _ in data.calibration_loader():
            for row in x:
                module.model(input_ids=row[row != 0][None])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(x) for name, x in seen.items()}


def linears(module):
    return [name for name, m in module.named_modules() if isinstance(m, nn.Linear)]


def assert_hessians_of_single_sentences(folder, root, count, **settings):
    network, data = loaded(folder, count, **settings)
    stage = Calibrate(count, 1024, 8, None, 0)
    artifact = Store(root).run(stage, network, Keyed(data, ""), MACHINE)
    names = linears(network.module)
    assert sorted(layers_of(artifact)) == sorted(names)
    for name, X in one_by_one(network.module, data, names).items():
        H, found = 2 / len(X) * X.T @ X, hessian_of(artifact, name)[0].double()
        torch.testing.assert_close(found, H, rtol=1e-5, atol=1e-6 * float(H.max()))
        torch.testing.assert_close(
            artifact.tensors[f"mean/{name}"][0].double(), X.mean(0), rtol=1e-5, atol=1e-5
        )
        assert artifact.record["positions"][name] == len(X)


def test_hessians_are_those_of_single_sentences(tiny_bert, tmp_path):
    assert_hessians_of_single_sentences(tiny_bert, tmp_path / "store", 20)


def test_hessians_of_the_real_network_are_those_of_single_sentences(data_root, tmp_path):
    assert_hessians_of_single_sentences(data_root / "sst2", tmp_path, 20, max_length=64)


def test_every_sentence_draws_its_own_positions(tiny_bert, tmp_path, monkeypatch):
    network, data = loaded(tiny_bert, 20, batch=8)
    drawn = []

    def sampled(call, count, seeds):
        assert len(call.x) == len(seeds)
        if call.weight.shape == (24, 16) and call.weight is first:
            drawn.extend(seeds)
        return call.pieces()

    first = network.module.model.bert.encoder.layer[0].intermediate.dense.weight
    monkeypatch.setattr(calibrate.Call, "sampled", sampled)
    Store(tmp_path / "store").run(Calibrate(20, 20, 8, 2, 0), network, Keyed(data, ""), MACHINE)
    assert sorted(drawn) == list(range(min(drawn), min(drawn) + 20))


@pytest.mark.parametrize("batch", [1, 8, 20])
def test_sequential_sums_run_over_all_calls_of_a_layer(tiny_bert, batch):
    network, data = loaded(tiny_bert, 20, batch=batch)
    other = copy.deepcopy(network.module)
    torch.manual_seed(0)
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    layers = calibrate.find(network.module, next(iter(data.calibration_loader()))[0])[0]
    name = "model.bert.encoder.layer.1.output.dense"
    collect = CollectPair(
        network.module,
        other,
        layers[name],
        None,
        batch,
        ActivationCache(network.module, other, layers, 4),
    )
    with torch.inference_mode():
        for number, loaded_batch in enumerate(data.calibration_loader()):
            collect.predict_step(loaded_batch, number)
    X, Y = (one_by_one(net, data, [name])[name] for net in (network.module, other))
    assert collect.same.n == collect.cross.n == len(X)
    for found, expected in ((collect.same, Y.T @ Y), (collect.cross, X.T @ Y)):
        expected = 2 / len(X) * expected
        scale = float(expected.abs().max())
        torch.testing.assert_close(found.mean()[0], expected, rtol=1e-4, atol=1e-5 * scale)


def test_a_layer_called_once_is_not_run_past_and_a_smaller_last_batch_is_not_lost():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    layers, _ = calibrate.find(net, torch.randn(2, 3))
    collect = CollectPair(
        net, copy.deepcopy(net), layers["0"], None, 4, ActivationCache(net, net, {}, 0)
    )
    ran = []
    net[2].register_forward_hook(lambda *args: ran.append(1))
    batches = [torch.randn(n, 3) for n in (4, 4, 4, 2)]
    for x in batches:
        collect.predict_step((x, None), 0)
    X = torch.cat(batches)
    assert collect.same.n == 14 and len(ran) == 2  # the first batch, and the one of another shape
    torch.testing.assert_close(collect.same.mean()[0].float(), 2 / 14 * X.T @ X)


def test_ranges_of_activations_are_those_of_single_sentences(tiny_bert):
    network, data = loaded(tiny_bert, 20)
    layers, _ = calibrate.find(network.module, next(iter(data.calibration_loader()))[0])
    stage = QuantizeActivations("inputs", 8, 8, {}, False, "minmax", 99.99, 20)
    found = stage.run(Keyed(network.module, ""), Keyed(layers, ""), Keyed(data, ""), MACHINE)
    assert found.record["left_out"] == {} and set(found.record["bits"]) == set(layers)
    for name, X in one_by_one(network.module, data, list(layers)).items():
        low, high = min(float(X.min()), 0.0), max(float(X.max()), 0.0)
        step = float(found.tensors[f"{name}.act_scale"])
        assert step == pytest.approx((high - low) / 255, rel=1e-3), name


def test_outputs_of_a_module_that_runs_twice_are_refused():
    shared = nn.Sequential(nn.Linear(3, 3))
    net = nn.Sequential(shared, shared)
    with pytest.raises(ValueError, match="0 runs more than once"), tapped(net, ["0"]):
        net(torch.ones(1, 3))


def words(folder):
    return (
        "model=transformers", "model.name=tiny", f"model.checkpoint={folder}",
        "model.max_length=12", "data=sst2", f"data.root={folder}", "calibrate.images=20",
        "calibrate.batch_size=8", *SHORT,
    )  # fmt: skip


def test_sentences_go_through_the_whole_chain(obliq, tiny_bert):
    found = obliq(*words(tiny_bert), "method=row_parallel", "bits=3", "act_bits=8")
    assert found.status == 0, found.text
    results = found.results
    network, _ = loaded(tiny_bert)
    assert {row["name"] for row in results["layers"]} == set(linears(network.module))
    assert {row["name"]: row["reason"] for row in results["not_quantized"]} == {
        f"model.bert.embeddings.{kind}_embeddings.weight": "used by embedding"
        for kind in ("word", "position", "token_type")
    }
    assert results["activations_not_quantized"] == {} and results["metric"] == "top1"
    assert results["correction"]["mode"] == "match"
    assert 0 < results["fidelity"]["sqnr_db"] < 60
    assert results["n_images"] <= 30 and f"{results['n_images']} sentences of sst2" in found.text
    assert results["details"]["Sentences cut to 12 tokens"] == {"calibration": 0, "evaluation": 0}
    assert f"{results['n_images']} sentences" in (found.folder / "report.html").read_text()
    again = obliq(*words(tiny_bert), "method=row_parallel", "bits=3", "act_bits=8")
    assert all(again.results["cached"].values())


def test_sequential_inputs_work_on_sentences(obliq, tiny_bert):
    found = obliq(*words(tiny_bert), "method=gptq", "quantize.inputs=sequential")
    assert found.status == 0, found.text
    plain = obliq(*words(tiny_bert), "method=gptq")
    assert found.results["fidelity"] != plain.results["fidelity"]


@pytest.mark.parametrize("word", ["method=eptq", "grid.search=hmse"])
def test_what_needs_one_output_a_layer_is_refused_before_calibration(obliq, tiny_bert, word):
    more = ["schedule=cpu", "method.held_out=4"] if word == "method=eptq" else []
    found = obliq(*words(tiny_bert), word, *more)
    assert found.status == 1 and "calibrate " not in found.text
    assert "runs" in found.text and "8 sentences" in found.text and "grid.search=mse" in found.text


def test_the_real_experiment_runs_on_a_few_sentences(obliq, data_root):
    found = obliq(
        "experiment=sst2_bert", "method=row_parallel", "bits=4", "calibrate.images=64",
        "data.images=200", *SHORT,
    )  # fmt: skip
    assert found.status == 0, found.text
    results = found.results
    assert len(results["layers"]) == 26 and len(results["not_quantized"]) == 3
    assert results["n_images"] == 200 and results["float"]["top1"] > 85
    assert abs(results["drop"]["points"]) < 5 and results["fidelity"]["agreement"] > 95
