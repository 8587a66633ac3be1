from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipelines.machine.machine import Machine
from pipelines.stages.batchnorm import CorrectStatistics, corrected
from pipelines.stages.float_logits import FloatLogits
from pipelines.stages.float_moments import FloatMoments
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from quant import statistics

MACHINE = Machine("cpu", 1, "32-true", None)


def rounded(module, step):
    """The network with its convolutions rounded to multiples of `step` of their largest weight."""
    copy = deepcopy(module)
    with torch.no_grad():
        for part in copy.modules():
            if isinstance(part, nn.Conv2d):
                size = step * part.weight.abs().max()
                part.weight.copy_((part.weight / size).floor() * size)
    return copy


@pytest.fixture
def correct(digits, tmp_path, monkeypatch):
    """(mode, network) -> artifact; looking at an evaluation image fails."""
    network, data = digits
    monkeypatch.setattr(
        type(data), "test_dataloader", lambda self: pytest.fail("an evaluation image was used")
    )
    chosen, pixels = set(data.calibration.ids), type(data.calibration.blob)
    monkeypatch.setattr(pixels, "__call__", lambda self, name: read(self, name, chosen))

    def run(mode, module):
        images = Keyed(data, data.calibration_key)
        return Store(tmp_path).run(
            CorrectStatistics(mode, 32), network, Keyed(module, "quantized"), images, MACHINE
        )

    return run


def read(pixels, name, allowed):
    assert name in allowed, "an image outside the calibration set was read"
    return pixels.array[int(name.removeprefix("digits#"))].tobytes()


def kl(reference, module, loader):
    total, count = 0.0, 0
    with torch.inference_mode():
        for x, _ in loader:
            p, q = (net(x).double().log_softmax(1) for net in (reference, module))
            total, count = total + float((p.exp() * (p - q)).sum()), count + len(x)
    return total / count


@pytest.mark.parametrize("mode", ["match", "reestimate"])
def test_a_correction_that_helps_on_the_calibration_images_is_kept(correct, digits, mode):
    network, data = digits
    module = rounded(network.module, 0.4)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    artifact = correct(mode, module)
    record = artifact.record
    assert record["kept"] and record["kl_after"] < record["kl_before"]
    loader = data.calibration_loader(start=len(data.calibration) - 32)
    better = corrected(module, artifact)
    assert record["kl_before"] == pytest.approx(kl(network.module, module, loader), rel=1e-4)
    assert record["kl_after"] == pytest.approx(kl(network.module, better, loader), rel=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items()), "unchanged"
    weights = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Conv2d)}
    assert artifact.tensors and not set(artifact.tensors) & weights
    assert not better.training


def test_a_correction_that_does_not_help_is_not_kept(correct, digits):
    network = digits[0].module
    artifact = correct("reestimate", deepcopy(network))  # nothing was quantized: nothing to gain
    assert not artifact.record["kept"] and not artifact.tensors
    assert artifact.record["kl_before"] == pytest.approx(0, abs=1e-9)


def test_none_changes_nothing(correct, digits):
    artifact = correct("none", rounded(digits[0].module, 0.4))
    assert artifact.record == {"mode": "none", "kept": False} and not artifact.tensors


@pytest.mark.parametrize("copies", [0, 2])
def test_stored_moments_of_the_float_network_give_the_same_bits_without_running_it(
    digits, tmp_path, monkeypatch, copies
):
    network, data = digits
    data = deepcopy(data)
    data._copies = copies
    module, images = rounded(network.module, 0.4), Keyed(data, f"copies {copies}")
    stage = CorrectStatistics("match", 32)
    logits, found = (prepare.run(network, images, MACHINE) for prepare in stage.prepared_by())
    batches = len(data.fitting_loader())
    assert batches == 6 * (1 + copies) and found.record == {"batches": batches}
    at_once = stage.run(network, Keyed(module, "quantized"), images, MACHINE)
    ran = lambda *args: pytest.fail("the float network ran")  # noqa: E731
    monkeypatch.setattr(statistics, "norm_moments", ran)
    monkeypatch.setattr(network.module, "forward", ran)
    stored = stage.run(network, Keyed(module, "quantized"), images, MACHINE, logits, found)
    assert stored.record == at_once.record and stored.record["kept"]
    assert set(stored.tensors) == set(at_once.tensors)
    for name, value in stored.tensors.items():
        assert torch.equal(value, at_once.tensors[name]), name


def test_only_matching_needs_the_moments_of_the_float_network():
    assert CorrectStatistics("match", 32).prepared_by() == [FloatLogits(32), FloatMoments()]
    assert CorrectStatistics("reestimate", 32).prepared_by() == [FloatLogits(32)]
    assert CorrectStatistics("none", 32).prepared_by() == []


@pytest.mark.parametrize("images", [32, 40, 1000])
def test_logits_are_those_of_the_last_calibration_images(digits, images):
    network, data = digits
    found = FloatLogits(images).run(network, Keyed(data, ""), MACHINE)
    everything = torch.cat([network.module(x) for x, _ in data.calibration_loader()])
    kept = torch.cat([found.tensors[str(number)] for number in range(len(found.tensors))])
    torch.testing.assert_close(kept, everything[-images:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("others", [lambda y: [y, y], lambda y: y[..., None, None]])
def test_outputs_that_are_no_logits_are_not_kept_and_the_network_stops(digits, others):
    network, data = digits
    runs = []

    class Maps(nn.Module):
        def forward(self, x):
            runs.append(len(x))
            return others(network.module(x))

    found = FloatLogits(1000).run(replace(network, module=Maps()), Keyed(data, ""), MACHINE)
    assert not found.tensors and len(runs) == 1 < len(data.calibration_loader())
