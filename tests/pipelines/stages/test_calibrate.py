from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.digits import Digits, split
from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages import calibrate
from pipelines.stages.calibrate import Calibrate, hessian_of, layers_of
from pipelines.stages.solving.activation_cache import ActivationCache
from pipelines.stages.solving.sequential import CollectPair, adjusted_weights
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from quant.layers import Layer

MACHINE = Machine("cpu", 1, "32-true", None)


def images(network, count=96, seed=0, batch=16):
    data = Digits(
        root=None, calibration_root=None, batch_size=500, workers=0, skip_bad=False, images=None
    )
    data.prepare(network.data_config, count, seed, batch)
    return data


def calibrated(root, network, data, batch=16, positions=None):
    stage = Calibrate(len(data.calibration), 1024, batch, positions, 0)
    return Store(root).run(stage, network, Keyed(data, data.calibration_key), MACHINE)


def test_the_ids_are_recorded_seeded_and_without_replacement(digits, tmp_path):
    network, data = digits
    ids = calibrated(tmp_path, network, data).record["ids"]
    assert ids == list(data.calibration.ids) and len(set(ids)) == len(ids) == 96
    assert set(ids) <= set(split()[0].ids), "calibration images come from the training pool only"
    assert list(images(network).calibration.ids) == ids
    assert set(images(network, seed=1).calibration.ids) != set(ids)
    assert not set(ids) & set(data.evaluation.ids)


def test_hessians_are_fitted_to_copies_too(digits, tmp_path):
    network, data = digits
    plain = calibrated(tmp_path, network, data)
    data = images(network)
    data.prepare(network.data_config, 96, 0, 16, copies=2)
    artifact = calibrated(tmp_path, network, data)
    first = next(iter(layers_of(artifact).values()))
    conv, seen = network.module.get_submodule(first.name), []
    hook = conv.register_forward_pre_hook(lambda module, args: seen.append(args[0].double()))
    with torch.inference_mode():
        for x, _ in data.fitting_loader():
            network.module(x)
    hook.remove()
    x = torch.cat(seen)
    columns = F.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride)
    columns = columns.permute(1, 0, 2).flatten(1)
    H, found = 2 / columns.shape[1] * columns @ columns.T, hessian_of(artifact, first.name)
    assert len(x) == 3 * 96 and torch.allclose(found[0].double(), H, rtol=1e-4)
    assert not torch.allclose(hessian_of(plain, first.name), found, rtol=1e-2)


def test_hessians_equal_a_plain_loop_over_images_and_positions(digits, tmp_path):
    network, data = digits
    artifact = calibrated(tmp_path, network, data)
    layers = layers_of(artifact)
    assert list(layers) == [
        n
        for n, m in network.module.named_modules()
        if hasattr(m, "bias") and isinstance(m, nn.Conv2d | nn.Linear)
    ]
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        network.module.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen[name].append(args[0].double())
        )
        for name in layers
    ]
    with torch.inference_mode():
        for x, _ in data.calibration_loader():
            network.module(x)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        module = network.module.get_submodule(name)
        x = torch.cat(seen[name])
        if isinstance(module, nn.Conv2d):
            X = F.unfold(x, module.kernel_size, padding=module.padding, stride=module.stride)
            X = X.permute(1, 0, 2).flatten(1).reshape(layer.groups, layer.columns, -1)
        else:
            X = x.T[None]
        H = torch.zeros(layer.groups, layer.columns, layer.columns, dtype=torch.float64)
        for g in range(layer.groups):
            H[g] = 2 / X.shape[2] * X[g] @ X[g].T
        scale = float(H.abs().max())
        found = hessian_of(artifact, name).double()
        torch.testing.assert_close(found, H, rtol=1e-5, atol=1e-6 * scale)
        assert torch.equal(found, found.mT)
        assert artifact.record["positions"][name] == X.shape[2]


@pytest.mark.parametrize("batch", [1, 7, 96])
def test_the_batch_size_moves_hessians_by_less_than_a_millionth(digits, tmp_path, batch):
    network, data = digits
    first = calibrated(tmp_path / "a", network, data)
    second = calibrated(tmp_path / "b", network, images(network, batch=batch), batch)
    for name in layers_of(first):
        for centred, most in ((False, 1e-6), (True, 1e-5)):
            one, other = (hessian_of(x, name, centred).double() for x in (first, second))
            assert float((one - other).norm() / one.norm()) < most, name


def test_an_interrupted_calibration_goes_on_with_the_same_bits(digits, tmp_path, monkeypatch):
    network, data = digits
    whole = calibrated(tmp_path / "whole", network, data)

    monkeypatch.setattr(calibrate, "SAVE_EVERY", 0.0)
    step, steps = calibrate.CollectHessians.predict_step, []

    def counted(self, batch, index):
        if len(steps) == 3:
            raise OSError("the power is out")
        steps.append(len(batch[0]))
        step(self, batch, index)

    monkeypatch.setattr(calibrate.CollectHessians, "predict_step", counted)
    with pytest.raises(OSError, match="power"):
        calibrated(tmp_path / "broken", network, data)
    assert steps == [16] * 3 and list((tmp_path / "broken").rglob("*.partial/sums-*"))

    later = []
    monkeypatch.setattr(
        calibrate.CollectHessians,
        "predict_step",
        lambda self, batch, index: (later.append(1), step(self, batch, index))[1],
    )
    again = calibrated(tmp_path / "broken", network, data)
    assert len(later) == 3, "only the batches that were missing"
    assert again.record == whole.record
    for name, H in whole.tensors.items():
        assert torch.equal(again.tensors[name], H), name
    assert not list((tmp_path / "broken").rglob("*.partial"))


def test_unfinished_sums_are_saved_every_two_minutes(digits, tmp_path, monkeypatch, passes):
    """Six batches of 16 images and fifty seconds."""
    saved, collect = [], calibrate.CollectHessians
    step, save = collect.predict_step, collect.save
    monkeypatch.setattr(collect, "predict_step", lambda *args: passes(50.0) or step(*args))
    monkeypatch.setattr(collect, "save", lambda self: saved.append(self.images) or save(self))
    calibrated(tmp_path, *digits)
    assert saved == [3 * 16, 6 * 16]


def test_a_kill_after_the_last_batch_needs_no_batch_again(digits, tmp_path, monkeypatch):
    network, data = digits
    monkeypatch.setattr(calibrate, "SAVE_EVERY", 0.0)
    hessian = calibrate.HessianSum.covariance

    def dies(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate.HessianSum, "covariance", dies)
    with pytest.raises(KeyboardInterrupt):
        calibrated(tmp_path, network, data)
    monkeypatch.setattr(calibrate.HessianSum, "covariance", hessian)

    def step(*args):
        raise AssertionError("no batch is left")

    monkeypatch.setattr(calibrate.CollectHessians, "predict_step", step)
    assert len(calibrated(tmp_path, network, data).tensors) == 2 * 6


class Small(nn.Module):
    """Input 0 of `second` is always 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(192, 5)
        self.second = nn.Linear(5, 10)

    def forward(self, x):
        hidden = self.first(x.flatten(1)).relu()
        return self.second(hidden * torch.tensor([0.0, 1, 1, 1, 1]))


def small(digits, module=None):
    return Network.of(module or Small(), "small", digits[0].data_config)


def test_dead_inputs_are_found_and_counted(digits, tmp_path):
    network = small(digits)
    assert calibrated(tmp_path, network, images(network)).record["dead_inputs"] == {"second": 1}


class Overflows(Small):
    def forward(self, x):
        return self.second(self.first(x.flatten(1)) * 1e30)


def test_a_hessian_that_is_not_finite_names_the_layer_and_the_remedy(digits, tmp_path):
    network = small(digits, Overflows())
    with pytest.raises(ValueError, match=r"layer second: .*NaN or infinite.*Check.*precision"):
        calibrated(tmp_path, network, images(network))
    assert not list(tmp_path.rglob("done.json"))


class NothingToDo(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]


def test_a_network_without_layers_is_an_error(digits, tmp_path):
    network = small(digits, NothingToDo())
    with pytest.raises(ValueError, match="no Linear or Conv2d weight"):
        calibrated(tmp_path, network, images(network))


def test_hessians_of_the_quantized_inputs_and_moved_weights_are_the_least_squares_ones(digits):
    network, data = digits
    other = Network.of(type(network.module)(), "other", network.data_config).module
    other.load_state_dict(network.module.state_dict())
    with torch.no_grad():
        other.stem[0].weight.mul_(16).round_().div_(16)
    layer = Layer("down.0", "down.0.weight", tuple(other.down[0].weight.shape), 1)
    collect = CollectPair(
        network.module, other, layer, None, 16, ActivationCache(network.module, other, {}, 0)
    )
    inputs: dict[str, list[torch.Tensor]] = {"float": [], "quantized": []}
    hooks = [
        net.down[0].register_forward_hook(lambda m, a, o, to=inputs[name]: to.append(a[0].double()))
        for name, net in (("float", network.module), ("quantized", other))
    ]
    with torch.inference_mode():
        for batch in data.calibration_loader():
            network.module(batch[0]), other(batch[0])
        for hook in hooks:
            hook.remove()
        for batch in data.calibration_loader():
            collect.predict_step(batch, 0)
    X, Y = (
        F.unfold(torch.cat(x), 3, padding=1, stride=2).permute(1, 0, 2).flatten(1)
        for x in inputs.values()
    )
    n = X.shape[1]
    H, C = collect.same.hessian(), collect.cross.mean()
    torch.testing.assert_close(H[0], 2 / n * Y @ Y.T, rtol=1e-5, atol=1e-6 * float(H.max()))
    torch.testing.assert_close(C[0], 2 / n * X @ Y.T, rtol=1e-5, atol=1e-6 * float(H.max()))

    W = network.module.down[0].weight.detach().double().flatten(1)
    damping = 1e-3
    damped = 2 / n * Y @ Y.T
    damped += damping * damped.diagonal().mean() * torch.eye(len(damped))
    expected = W + W @ (2 / n * (X - Y) @ Y.T) @ torch.linalg.inv(damped)
    found = adjusted_weights(W[None], (2 / n * Y @ Y.T)[None], (2 / n * X @ Y.T)[None], damping)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-9)
    better = ((W @ X - found[0] @ Y) ** 2).sum() / ((W @ X - W @ Y) ** 2).sum()
    assert float(better) < 1


def test_without_damping_the_moved_weights_solve_the_least_squares_problem():
    torch.manual_seed(0)
    X = torch.randn(6, 200, dtype=torch.float64)
    Y = X + 0.3 * torch.randn(6, 200, dtype=torch.float64)
    W = torch.randn(3, 6, dtype=torch.float64)
    expected = torch.linalg.lstsq(Y.T, X.T @ W.T).solution.T
    found = adjusted_weights(W[None], (2 / 200 * Y @ Y.T)[None], (2 / 200 * X @ Y.T)[None], 1e-13)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-9)


def test_sums_are_replaced_all_or_nothing(digits, tmp_path, monkeypatch):
    network, data = digits
    layers = {"classifier": Layer("classifier", "classifier.weight", (10, 64), 1)}
    unfinished = Checkpoint(tmp_path, "sums")
    settings = Calibrate(96, 1024, 16, None, 0)
    collect = calibrate.CollectHessians(network.module, layers, settings, unfinished)
    with torch.inference_mode():
        collect.predict_step(next(iter(data.calibration_loader())), 0)
    collect.save()
    before = unfinished.load()
    with torch.inference_mode():
        collect.predict_step(next(iter(data.calibration_loader())), 0)
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        collect.save()
    torch.testing.assert_close(unfinished.load(), before, rtol=0, atol=0)


def test_damaged_sums_are_not_gone_on_from(digits, tmp_path, monkeypatch):
    network, data = digits
    whole = calibrated(tmp_path / "whole", network, data)
    monkeypatch.setattr(calibrate, "SAVE_EVERY", 0.0)
    step = calibrate.CollectHessians.predict_step

    def killed(self, batch, index):
        if self.images:
            raise OSError("the power is out")
        step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(calibrate.CollectHessians, "predict_step", killed)
        with pytest.raises(OSError, match="power"):
            calibrated(tmp_path / "broken", network, data)
    (saved,) = (tmp_path / "broken").rglob("*.partial/sums-*")
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1  # in a tensor, so that the file can still be read
    saved.write_bytes(content)
    again = calibrated(tmp_path / "broken", network, data)
    torch.testing.assert_close(dict(again.tensors), dict(whole.tensors), rtol=0, atol=0)


def test_sampled_positions_do_not_depend_on_the_batches_and_come_from_every_image(
    digits, tmp_path, monkeypatch
):
    network, data = digits
    some = calibrated(tmp_path, network, data, positions=5)
    small = images(network, batch=7)
    again = calibrated(tmp_path / "again", network, small, batch=7, positions=5)
    assert some.record["positions"] == {n: 96 * (1 if n == "classifier" else 5) for n in LAYERS}
    for name in LAYERS:
        torch.testing.assert_close(
            hessian_of(again, name), hessian_of(some, name), rtol=1e-5, atol=1e-6
        )
    whole = calibrated(tmp_path, network, data, positions=10_000)
    plain = calibrated(tmp_path, network, data)
    for name in LAYERS:
        assert torch.equal(hessian_of(whole, name), hessian_of(plain, name))
        if name != "classifier":
            assert not torch.allclose(hessian_of(some, name), hessian_of(plain, name), rtol=1e-3)


LAYERS = ("stem.0", "depthwise.0", "pointwise.0", "down.0", "last.0", "classifier")
