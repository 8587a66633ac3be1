"""The loss of the training, its batches, and what counts as an output."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pipelines.stages.rounding.eptq import outputs_of
from pipelines.stages.rounding.loss import Task, balance, distances, squared
from pipelines.stages.rounding.schedule import Schedule
from pipelines.stages.rounding.training import RoundingTraining, batch_of, biases_of
from quant.grid import fit
from quant.rounding import KINDS

SETTINGS = {
    "steps": 10,
    "batch_size": 4,
    "micro_batch_size": 2,
    "rounding_lr": 0.01,
    "scale_lr": 0.001,
    "bias_lr": 0.001,
    "activation_lr": 0.001,
    "regularisation": 0.01,
    "beta": [20, 2],
    "warmup": 0.2,
    "gradual": 1.0,
    "average": 0.0,
    "decay": False,
}


class Images:
    """Two random images as calibration data of a task."""

    def __init__(self, x):
        self.x = x

    def calibration_batches(self, batches):
        return [(self.x[b], torch.tensor(b)) for b in batches]

    def divergence(self, network, reference, outputs):
        return (reference - outputs).abs().sum(1)


def networks():
    torch.manual_seed(0)

    def net():
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)).double()

    return net(), net()


def softened(layer):
    """A rounding on the weight of a convolution, with codes of four bits."""
    W = layer.weight.detach().flatten(1)[None]
    grid = fit(W, 4, granularity="channel", symmetric=False, search="minmax")
    rounding = KINDS["straight"](W, grid.codes(W), grid, layer.weight.shape, 0.5)
    parametrize.register_parametrization(layer, "weight", rounding, unsafe=True)
    return rounding


def training(features, scores, **changes):
    reference, quantized = networks()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    task = Task(
        reference=reference,
        quantized=quantized,
        data=Images(x),
        taps=["0", "3"],
        scores=scores,
        weights=[],
        activations="direct",
        feature_weight=features,
        images=2,
        held_out=1,
        seed=0,
    )
    return RoundingTraining(task, Schedule(**SETTINGS | changes)), x


def test_the_published_loss_is_the_sum_over_layers_of_scored_errors_over_the_largest_mean():
    scores = torch.tensor([[1.0, 3.0], [2.0, 5.0]])
    module, x = training(None, scores)
    reference, quantized = module.task.reference, module.task.quantized
    with torch.no_grad():
        z = [net[0](x) for net in (reference, quantized)]
        f = [net(x) for net in (reference, quantized)]
    wanted = 0.0
    for i in range(2):
        wanted += scores[i, 0] * ((z[1][i] - z[0][i]) ** 2).sum(0).mean() / 2
        wanted += scores[i, 1] * ((f[1][i] - f[0][i]) ** 2).sum() / 2
    outputs, layers = (t.detach() for t in distances(module.task, x, torch.tensor([0, 1])))
    assert float(outputs) == 0
    assert float(layers) == pytest.approx(float(wanted) / 4, rel=1e-5)  # 4: mean score of layer 2


def test_our_loss_sums_over_positions_and_balances_against_the_divergence():
    scores = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    module, x = training(7.0, scores)
    reference, quantized = module.task.reference, module.task.quantized
    with torch.no_grad():
        z = [net[0](x) for net in (reference, quantized)]
        f = [net(x) for net in (reference, quantized)]
    wanted = sum(float(scores[i, 0] * ((z[1][i] - z[0][i]) ** 2).sum()) / 2 for i in range(2))
    outputs, layers = (t.detach() for t in distances(module.task, x, torch.tensor([0, 1])))
    assert float(layers) == pytest.approx(wanted, rel=1e-5)
    assert float(outputs.detach()) == pytest.approx(
        float((f[0] - f[1]).abs().sum(1).mean()), rel=1e-5
    )
    gamma = balance(module.task, module.schedule, torch.device("cpu"))
    assert float(gamma * layers) == pytest.approx(7 * float(outputs), rel=1e-5)


def test_scores_go_with_their_images():
    module, x = training(None, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    one = distances(module.task, x[:1], torch.tensor([0]))[1].detach()
    assert float(one) > 0
    assert float(distances(module.task, x[:1], torch.tensor([1]))[1].detach()) == 0


def test_a_pass_shows_every_image_once_and_the_next_one_in_another_order():
    steps = [batch_of(step, 10, 5, seed=3) for step in range(4)]
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(10))
    assert steps[0] + steps[1] != steps[2] + steps[3]
    assert batch_of(1, 10, 5, seed=3) == steps[1] != batch_of(1, 10, 5, seed=4)
    assert sorted(batch_of(7, 3, 32, seed=0)) == [0, 1, 2]  # fewer images than a batch


def test_tokens_and_maps_are_summed_over_their_channels():
    maps = torch.arange(12.0).reshape(1, 3, 2, 2)
    tokens = maps.flatten(2).transpose(1, 2)
    for positions in (True, False):
        assert torch.equal(squared(maps, positions), squared(tokens, positions))
    assert float(squared(maps, True)) == float((maps**2).sum())
    assert float(squared(maps, False)) == float((maps**2).sum()) / 4
    assert float(squared(maps[:, :, 0, 0], True)) == float(squared(maps[:, :, 0, 0], False))


def test_biases_of_all_kinds_of_modules_are_found():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2, bias=False))
    assert list(biases_of(net)) == ["0.bias", "1.bias"]


def test_a_layer_whose_output_is_the_networks_own_is_recognised_behind_a_view():
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)

        def forward(self, x):
            y = self.inner(x).relu()
            return [self.head(y).view(len(x), 2, 3, *x.shape[2:]), y * 2]

    assert outputs_of(Maps(), torch.randn(1, 3, 2, 2), ["inner", "head"]) == {"head"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "schedule.steps=0"),
        ({"micro_batch_size": 0}, "schedule.micro_batch_size=0"),
        ({"warmup": 1.0}, "schedule.warmup=1.0"),
        ({"gradual": -0.1}, "schedule.gradual=-0.1"),
        ({"average": 1.1}, "schedule.average=1.1"),
        ({"beta": [20]}, "schedule.beta"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(change, says):
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        Schedule(**{**SETTINGS, **change})


def test_how_far_a_step_goes_does_not_depend_on_the_size_of_the_loss():
    def moved(size):
        module, _ = training(7.0, torch.ones(2, 2))
        module.roundings = [softened(module.quantized[0])]
        first = [p.detach().clone() for p in module.parameters()]
        optimizers = module.configure_optimizers()
        for step in range(8):  # RAdam's first five steps would be as long as the gradient
            for i, parameter in enumerate(module.parameters()):
                generator = torch.Generator().manual_seed(100 * step + i)
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.grad = (size * (0.5 + noise)).to(parameter)
            for optimizer in optimizers:
                optimizer.step()
        return [p.detach() - old for p, old in zip(module.parameters(), first, strict=True)]

    small, large = moved(1.0), moved(1e6)
    assert sum(float(change.abs().max()) > 0 for change in small) == 4  # a, its scale, two biases
    for a, b in zip(small, large, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_best_network_on_the_way_is_taken_even_if_training_is_interrupted(interrupted):
    def fresh():
        return training(7.0, torch.ones(2, 2), steps=20, average=0.01)[0]

    module = fresh()
    for epoch, kl in enumerate([3.0, 1.0, torch.nan, 2.0]):
        with torch.no_grad():
            for parameter in module.quantized.parameters():
                parameter.fill_(epoch)
        module.done.fill_(epoch + 1)
        module._average()
        module._trainer = SimpleNamespace(current_epoch=5 * epoch + 4)
        module.curve[5 * epoch + 4, 0] = epoch + 1
        module.held_out_kl = lambda kl=kl: kl
        module.on_train_epoch_end()
    if interrupted:
        checkpoint = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        module = fresh()
        module.load_state_dict(checkpoint["state_dict"])
        module.on_load_checkpoint(checkpoint)
    module.restore_best()
    assert module.best == (1.0, 2)
    weights = [p for n, p in module.quantized.named_parameters() if n.endswith("bias")]
    assert len(weights) == 2 and all(bool((p == 1).all()) for p in weights)


@pytest.mark.parametrize("average", [0.0, 0.4])
def test_what_is_judged_and_taken_is_an_average_over_the_last_steps(average):
    module, _ = training(7.0, torch.ones(2, 2), average=average)
    bias = module.quantized[0].bias
    values, mean, judged = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0], 0.0, []
    for step, value in enumerate(values, start=1):
        bias.data.fill_(value)
        module.done.fill_(step)
        module._average()
        mean += (value - mean) / min(step, max(1.0, average * SETTINGS["steps"]))
    module._trainer = SimpleNamespace(current_epoch=9)
    module.curve[9, 0] = len(values)
    module.held_out_kl = lambda: judged.append(bias.detach().clone()) or 1.0
    module.on_train_epoch_end()
    assert bias.tolist() == [9.0] * 3, "training goes on from where it was"
    module.restore_best()
    for found in (bias.detach(), *judged):
        torch.testing.assert_close(found, torch.full_like(found, mean), rtol=1e-9, atol=0)
    assert (mean == 9) == (average == 0)


@pytest.mark.parametrize(("side", "threads", "count"), [(4, 8, 4), (4, 3, 3), (1024, 8, 2)])
def test_small_images_are_trained_on_in_all_threads_large_ones_in_two(side, threads, count):
    """Eight images in chunks of two."""
    module, _ = training(7.0, torch.ones(8, 2), batch_size=8)
    module.task.images, module.task.data = 8, Images(torch.zeros(8, 2, side, side))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert module._chunks_at_once() == count
    finally:
        torch.set_num_threads(before)
