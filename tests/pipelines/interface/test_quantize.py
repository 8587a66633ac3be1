"""`obliq.quantize` and what it returns, against the command line on the same images."""

from __future__ import annotations

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file
from torch import nn

import obliq as api
from pipelines.exporting import model_file

SHORT = ("experiment=digits", "baseline.budget=0", "report.heatmaps=0", "calibrate.images=96")


@pytest.fixture
def images(digits):
    """The 96 calibration images of the command line, in its order."""
    network, data = digits[0], deepcopy(digits[1])
    data.prepare(network.data_config, 96, 0, 64)
    return torch.cat([x for x, _ in data.calibration_loader()])


WAYS = {
    "row_parallel": ((), {"bits": 3, "act_bits": 8}),
    "sequential": (
        ("quantize.inputs=sequential", "method=gptq"),
        {"bits": 2, "method": "gptq", "settings": {"quantize.inputs": "sequential"}},
    ),
    "mixed": (
        ("precision=mixed", "precision.choices=[2,8]", "precision.images=32",
         "precision.perturbations.images=16", "precision.traces.images=16"),
        {"precision": "mixed",
         "settings": {"precision.choices": [2, 8], "precision.images": 32,
                      "precision.perturbations.images": 16, "precision.traces.images": 16}},
    ),
    "eptq": (
        ("method=eptq", "schedule=cpu", "cpu_steps=10", "method.held_out=32", "label_free.draws=2"),
        {"bits": 2, "method": "eptq",
         "settings": {"schedule": "cpu", "cpu_steps": 10, "method.held_out": 32,
                      "label_free.draws": 2}},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_call_gives_the_file_of_a_run(obliq, digits, images, tmp_path, way):
    words, more = WAYS[way]
    widths = [f"{k}={v}" for k, v in more.items() if k in ("bits", "act_bits")]
    ran = obliq(*SHORT, *words, *widths)
    assert ran.status == 0, ran.text
    q = api.quantize(digits[0].module, images, progress=False, **more)
    q.save(tmp_path / "q.safetensors")
    found, expected = (
        load_file(path) for path in (tmp_path / "q.safetensors", ran.folder / model_file.NAME)
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    layers = {row["name"]: row for row in ran.results["layers"]}
    assert [row["name"] for row in q.layers] == list(layers)
    assert all(row["loss"] == layers[row["name"]]["loss"] for row in q.layers)
    assert q.layers.coverage["weights"] == ran.results["coverage"]["weights"]


class Net(nn.Module):
    """A network of a program's own; returns a dict, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x):
        return {"logits": self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))}


@pytest.fixture
def own():
    torch.manual_seed(0)
    return Net(), torch.randn(40, 3, 8, 8)


def quick(model, images, **more):
    return api.quantize(model, images, method="rtn", progress=False, **more)


def test_the_program_is_left_as_it_was(own):
    model, images = own
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hydra = GlobalHydra.instance().hydra = object()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    try:
        quick(model, images)
        assert GlobalHydra.instance().hydra is hydra
    finally:
        GlobalHydra.instance().hydra = None
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == drawn
    assert model.training and not model._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_images_are_taken_in_every_usual_form(own):
    model, images = own
    labels = torch.zeros(40).long()
    expected = quick(model, images).state.weights["conv"].codes
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=16
    )
    for form in (list(images.split(16)), loader, [{"pixel_values": images, "labels": labels}]):
        assert torch.equal(quick(model, form).state.weights["conv"].codes, expected)
    few = quick(model, images, settings={"calibrate.images": 8})
    assert torch.equal(
        few.state.rest["norm.running_var"], quick(model, images[:8]).state.rest["norm.running_var"]
    )


def test_the_table_prints_as_text_and_as_html(own):
    q = quick(*own, bits=3, act_bits=8)
    text = repr(q.layers)
    head, first, second, summary = text.splitlines()
    assert head.split() == ["name", "shape", "bits", "act_bits", "loss", "loss", "/", "rtn"]
    assert first.split()[:9] == ["conv", "8", "×", "3", "×", "3", "×", "3", "3"]
    assert second.startswith("head  4 × 8") and second.endswith("1.000")
    assert summary == "quantized: 100.0 % of weights, 100.0 % of multiply-adds"
    assert q.layers._repr_html_().count("<tr>") == 3


WRONG = {
    "a setting": ({"settings": {"grid.symetric": True}}, "did you mean symmetric"),
    "a group": ({"settings": {"grid": {"norm": 2}}}, r"grid\.NAME"),
    "bits": ({"bits": 40}, "bits=40 must be a whole number from 1 to 16"),
    "a type": ({"settings": {"machine.threads": "a"}}, "machine.threads='a' must be a whole"),
    "precision": ({"precision": "mixd"}, "did you mean mixed"),
    "a number": ({"settings": {"calibrate.images": 0}}, "calibrate.images=0 must be at least 1"),
    "a layer": ({"settings": {"precision.overrides": {"cnv": 8}}}, "conv"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_as_on_the_command_line(own, name):
    more, expected = WRONG[name]
    with pytest.raises(ValueError, match=expected):
        quick(*own, **more)


def test_images_that_do_not_fit_are_named(own):
    model, images = own
    with pytest.raises(ValueError, match=r"expected input.* to have 3 channels"):
        quick(model, images[:, :1])
    with pytest.raises(ValueError, match="one shape and type: there are none"):
        quick(model, [])
    with pytest.raises(ValueError, match=r"\[3, 8, 8\] float32, \[3, 9, 9\]|one shape and type"):
        quick(model, [images[:2], torch.randn(2, 3, 9, 9)])
    with pytest.raises(ValueError, match="not str"):
        quick(model, ["a.png"])


def test_a_store_keeps_the_results_for_the_next_call(own, tmp_path, capsys):
    first = api.quantize(*own, store=tmp_path / "store")
    capsys.readouterr()
    again = api.quantize(*own, store=tmp_path / "store")
    assert "quantize      from the store" in capsys.readouterr().err
    assert torch.equal(first.state.weights["conv"].codes, again.state.weights["conv"].codes)
