"""`obliq.load` and `obliq.evaluate` on the results of runs and calls."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

import obliq as api
from pipelines.exporting import model_file

SHORT = ("baseline.budget=0", "report.heatmaps=0", "calibrate.images=96")


@pytest.fixture(scope="module")
def evaluation(digits):
    """The evaluation images of the digits with their labels."""
    network, data = digits[0], deepcopy(digits[1])
    data.prepare(network.data_config, 96, 0, 64)
    return list(data.test_dataloader())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("bits=8", "act_bits=8"),
        ("bits=4", "act_bits=8", "activations.placement=outputs"),
        ("bits=2", "grid.granularity=group", "grid.group_size=5"),
        ("bits=2", "batchnorm=none"),
    ],
    ids=" ".join,
)
def test_a_loaded_run_has_the_figures_of_its_report(obliq, evaluation, monkeypatch, words):
    ran = obliq("experiment=digits", *SHORT, *words)
    assert ran.status == 0, ran.text
    model = api.load(ran.folder)
    assert not model.training
    assert api.evaluate(model, evaluation, progress=False) == ran.results["quantized"]
    size = (ran.folder / model_file.NAME).stat().st_size
    assert ran.results["size_mb"]["quantized"] == size / 1e6


def test_figures_against_the_float_network_are_those_of_the_report(obliq, digits, evaluation):
    ran = obliq("experiment=digits", *SHORT, "bits=2", "method=rtn")
    float_network = digits[0].module
    model = api.load(ran.folder / model_file.NAME, into=float_network)
    found = api.evaluate(model, evaluation, reference=float_network, progress=False)
    results = ran.results
    expected = {**results["quantized"], **results["fidelity"]}
    low, high = results["drop"]["ci95"]
    expected |= {"drop": results["drop"]["points"], "drop_low": low, "drop_high": high}
    assert found == pytest.approx(expected, rel=1e-9)
    without = [x for x, _ in evaluation]
    found = api.evaluate(model, without, reference=float_network, progress=False)
    assert found == pytest.approx(results["fidelity"], rel=1e-9)
    with pytest.raises(ValueError, match="have no labels"):
        api.evaluate(model, without, progress=False)


def test_a_network_that_cannot_be_built_is_asked_for(obliq, tmp_path):
    ran = obliq("experiment=digits", *SHORT, "bits=2", "method=rtn")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((ran.folder / model_file.NAME).read_bytes())
    with pytest.raises(ValueError, match="into=model"):
        api.load(alone)
    with pytest.raises(ValueError, match=r"another network.*float network that was quantized"):
        api.load(alone, into=nn.Linear(2, 2))
    record = json.loads((ran.folder / "results.json").read_text())
    record["settings"]["model"]["train"]["_target_"] = "os.system"
    (ran.folder / "results.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"built by os\.system, which is not obliq's"):
        api.load(ran.folder)
    with pytest.raises(FileNotFoundError, match="is no file"):
        api.load(tmp_path / "nowhere")


def test_evaluating_leaves_the_network_in_its_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5)).train()
    data = [(torch.randn(8, 2, 2), torch.arange(8) % 3)]
    assert api.evaluate(model, data, progress=False) == api.evaluate(model, data, progress=False)
    assert model.training and model[2].training
