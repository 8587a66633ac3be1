"""`obliq.export` and `obliq export`: files that other programs run, with the run's outputs."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import obliq as api
from pipelines.interface import command
from pipelines.onnx.session import session

SHORT = ("experiment=digits", "baseline.budget=0", "report.heatmaps=0", "calibrate.images=96")


@pytest.fixture(scope="module")
def images(digits):
    """Evaluation images of the digits."""
    network, data = digits[0], deepcopy(digits[1])
    data.prepare(network.data_config, 96, 0, 64)
    return torch.cat([x for x, _ in data.test_dataloader()])


def onnx(path, images):
    (logits,) = session(path, 1, precise=True).run(None, {"input": images.numpy()})
    return torch.from_numpy(logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "integer"),
    [
        (("bits=8", "act_bits=8", "grid.symmetric=true", "activations.placement=outputs"), 6),
        (("bits=3", "act_bits=8"), 0),
    ],
)
def test_a_run_is_exported_by_the_command_and_computes_the_same(
    obliq, images, tmp_path, capfd, words, integer
):
    ran = obliq(*SHORT, *words)
    assert ran.status == 0, ran.text
    model = api.load(ran.folder)
    with torch.no_grad():
        expected = model(images)
    for name in ("net.onnx", "net.pt2", "net.safetensors"):
        assert command.main([str(ran.folder), str(tmp_path / "new" / name)]) == 0
    told = capfd.readouterr().out
    assert "opset            21" in told and "6 as " in told and "net.pt2" in told
    assert f"integer layers   {integer} of 6" in told
    found = onnx(tmp_path / "new" / "net.onnx", images)
    assert found.shape == expected.shape
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.99
    # pixels of 17 levels make ties, which integers and floats round differently, layer by layer
    assert (found - expected).abs().mean() < 2e-3 * expected.abs().max()
    program = torch.export.load(tmp_path / "new" / "net.pt2").module()
    assert torch.allclose(program(images), expected, atol=1e-5)
    state, own = load_file(tmp_path / "new" / "net.safetensors"), model.state_dict()
    assert {n for n in own if "quantizer" not in n} == state.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


@pytest.fixture
def quantized():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(16, 3, 8, 8)
    return model, images, api.quantize(model, images, method="rtn", progress=False)


def test_a_file_that_does_not_tell_the_size_of_its_input_needs_an_example(quantized, tmp_path):
    model, images, q = quantized
    q.save(tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match="example=x"):
        api.export(tmp_path / "q.safetensors", tmp_path / "q.onnx", into=model)
    told = api.export(
        tmp_path / "q.safetensors", tmp_path / "q.onnx", into=model, example=images[:1]
    )
    assert told["bytes"] == (tmp_path / "q.onnx").stat().st_size
    assert set(told["weights"]) == {"0", "2"} and told["float_weights"] == {}
    with torch.no_grad():
        assert torch.allclose(onnx(tmp_path / "q.onnx", images), q.model(images), atol=1e-4)


def test_wrong_endings_opsets_and_runs_are_one_clear_line(quantized, tmp_path, capsys):
    *_, q = quantized
    with pytest.raises(ValueError, match=r"must be one of \.onnx, \.pt2, \.safetensors"):
        api.export(q, tmp_path / "q.tflite")
    with pytest.raises(ValueError, match="opset"):
        api.export(q, tmp_path / "q.onnx", opset=99)
    assert list(tmp_path.iterdir()) == []
    assert command.main([str(tmp_path / "nowhere"), str(tmp_path / "q.onnx")]) == 2
    assert capsys.readouterr().err.startswith("✗ ")
