"""Statistics correction against doing it by hand, one normalisation after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from quant.moments import moments
from quant.reestimation import PASSES, SETTLED, observing, running_statistics
from quant.statistics import Matcher


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


class Net(nn.Module):
    """Three BatchNorms, one of them timm's with its activation, and a residual."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=0)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), BatchNormAct2d(6, eps=0)
        self.head, self.bn3 = nn.Linear(6, 4), nn.BatchNorm1d(4, eps=0)

    def forward(self, x):
        x = torch.tanh(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + x
        return self.bn3(self.head(x.mean((2, 3))))


NORMS, SOURCES = ("bn1", "bn2", "bn3"), ("conv1", "conv2", "head")


def network(*, calibrated_on=None):
    """A network whose running statistics are those of a batch, or made-up ones."""
    net = Net().double().eval()
    for k, name in enumerate(NORMS):
        norm = net.get_submodule(name)
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.uniform_(-1, 1)
        norm.running_mean.copy_(draw(len(norm.running_mean), seed=k) * 0.1)
        norm.running_var.copy_(draw(len(norm.running_var), seed=k).square() + 0.5)
    if calibrated_on is not None:
        for name in NORMS:
            mean, var = before(net, calibrated_on, name)
            norm = net.get_submodule(name)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
    return net


def scaled(net):
    """Its weights scaled and its biases shifted, channel by channel: only statistics move."""
    moved = copy.deepcopy(net)
    for k, name in enumerate(SOURCES):
        source = moved.get_submodule(name)
        a = 0.5 + draw(len(source.bias), seed=10 + k).abs()
        source.weight.data *= a.reshape(-1, *[1] * (source.weight.dim() - 1))
        source.bias.data.mul_(a).add_(draw(len(source.bias), seed=20 + k))
    return moved


def noisy(net):
    """A rougher change, as quantization makes."""
    moved = copy.deepcopy(net)
    for k, name in enumerate(SOURCES):
        weight = moved.get_submodule(name).weight.data
        weight += 0.3 * weight.std() * draw(*weight.shape, seed=30 + k)
    return moved


def before(net, x, name):
    """Mean and biased variance of what enters the normalisation `name`, by hand."""
    seen = []
    hook = net.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net(x)
    hook.remove()
    (y,) = seen
    y = y.transpose(0, 1).flatten(1) if y.dim() == 4 else y.T
    return y.mean(1), ((y - y.mean(1, keepdim=True)) ** 2).mean(1)


def match(reference, quantized, batches):
    matcher = Matcher(reference, quantized)
    for batch in batches:
        matcher.step(batch)
    return matcher.finish()


def by_hand(reference, quantized, batches):
    """Correct the norms in order on every batch alone, then average means and log ratios."""
    means = {name: [] for name in NORMS}
    ratios = {name: [] for name in NORMS}
    for x in batches:
        work = copy.deepcopy(quantized)
        for name in NORMS:
            (m_f, v_f), (m_q, v_q) = before(reference, x, name), before(work, x, name)
            means[name].append(m_q - m_f)
            ratios[name].append(torch.log(v_q / v_f))
            norm = work.get_submodule(name)
            norm.running_mean += m_q - m_f
            norm.running_var *= v_q / v_f
    result = {}
    for name in NORMS:
        norm = quantized.get_submodule(name)
        mean, ratio = torch.stack(means[name]).mean(0), torch.stack(ratios[name]).mean(0)
        result[f"{name}.running_mean"] = norm.running_mean + mean
        result[f"{name}.running_var"] = norm.running_var * ratio.exp()
    return result


def test_match_undoes_any_scaling_and_shifting_of_channels_exactly():
    x = draw(16, 3, 8, 8)
    net = network(calibrated_on=x)
    moved = scaled(net)
    assert (moved(x) - net(x)).abs().max() > 0.1
    match(net, moved, [x])
    close(moved(x), net(x))
    for name in NORMS:
        mean, var = before(moved, x, name)
        norm = moved.get_submodule(name)
        close(norm.running_mean, mean)
        close(norm.running_var, var)


@pytest.mark.parametrize("sizes", [[16], [8, 8], [5, 11], [4, 4, 4, 4]])
@pytest.mark.parametrize("change", [scaled, noisy])
def test_match_equals_correcting_one_norm_after_the_other_by_hand(change, sizes):
    x = draw(16, 3, 8, 8)
    net = network()
    moved = change(net)
    expected = by_hand(net, moved, x.split(sizes))
    changed = match(net, moved, x.split(sizes))
    assert set(changed) == set(expected)
    for name, value in expected.items():
        close(changed[name], value)
        close(moved.state_dict()[name], value)


def test_match_leaves_the_float_network_and_everything_but_statistics_alone():
    x = draw(8, 3, 8, 8)
    net = network()
    moved = noisy(net)
    before_net = {k: v.clone() for k, v in net.state_dict().items()}
    before_moved = {k: v.clone() for k, v in moved.state_dict().items()}
    matcher = Matcher(net, moved)
    matcher.step(x)
    for key, value in moved.state_dict().items():  # a step is undone, only finish stays
        assert torch.equal(value, before_moved[key]), key
    changed = matcher.finish()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before_net[key]), key
    for key, value in moved.state_dict().items():
        assert torch.equal(value, before_moved[key]) == (key not in changed), key
    for module in (*net.modules(), *moved.modules()):
        assert not module._forward_pre_hooks and not module._forward_hooks
        assert not module.training


def test_an_error_inside_a_step_leaves_the_statistics_and_no_hook():
    net = network()
    moved = noisy(net)
    kept = {k: v.clone() for k, v in moved.state_dict().items()}
    moved.head.weight.data = moved.head.weight.data[:, :2]  # breaks after two norms
    with pytest.raises(RuntimeError, match="shapes"):
        Matcher(net, moved).step(draw(4, 3, 8, 8))
    assert all(torch.equal(v, kept[k]) for k, v in moved.state_dict().items() if "bn" in k)
    assert not any(m._forward_pre_hooks for n in (net, moved) for m in n.modules())


def test_a_constant_channel_keeps_its_variance():
    x = draw(8, 3, 8, 8)
    net = network()
    moved = noisy(net)
    for n in (net, moved):
        n.conv1.weight.data[2] = 0
    kept = moved.bn1.running_var[2].clone()
    changed = match(net, moved, [x])
    assert torch.equal(changed["bn1.running_var"][2], kept)
    assert all(value.isfinite().all() for value in changed.values())


def test_a_norm_that_runs_twice_is_restored_after_a_step_and_corrected_by_its_mean_shift():
    class Shared(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.bn, self.later, self.shift = nn.BatchNorm1d(3), nn.BatchNorm1d(3), shift

        def forward(self, x):
            return self.later(self.bn(x + self.shift) - 3 * self.bn(5 * x**2 + 7 + self.shift))

    net, moved = Shared(0.0).double().eval(), Shared(2.0).double().eval()
    matcher = Matcher(net, moved)
    matcher.step(draw(6, 3))
    assert torch.equal(moved.bn.running_mean, torch.zeros(3).double())
    matcher.finish()
    close(moved.bn.running_mean, torch.full((3,), 2.0).double())
    close(moved.bn.running_var, torch.ones(3).double())
    close(moved.later.running_mean, torch.zeros(3).double())  # it saw corrected inputs
    close(moved.later.running_var, torch.ones(3).double())


class Transformer(nn.Module):
    """LayerNorms over the last dimension; one has no bias and cannot be corrected."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.ln1 = nn.Linear(5, 6), nn.LayerNorm(6)
        self.mlp, self.ln2 = nn.Linear(6, 6), nn.LayerNorm(6)
        self.plain = nn.LayerNorm(6, bias=False)
        self.bare = nn.LayerNorm(6, elementwise_affine=False)

    def forward(self, x):
        x = self.ln1(self.embed(x))
        x = self.plain(self.bare(x + torch.tanh(self.mlp(x))))
        return self.ln2(self.mlp(x))


def outputs(net, x, name):
    seen = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, args, y: seen.append(y))
    with torch.no_grad():
        net(x)
    hook.remove()
    y = seen[0].flatten(0, -2)
    return y.mean(0), ((y - y.mean(0)) ** 2).mean(0)


def test_layer_norm_outputs_get_the_float_networks_mean_and_deviation_per_channel():
    x = draw(4, 7, 5)
    net = Transformer().double().eval()
    for name in ("ln1", "ln2"):
        norm = net.get_submodule(name)
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.uniform_(-1, 1)
    moved = copy.deepcopy(net)
    for k, name in enumerate(("embed", "mlp")):
        weight = moved.get_submodule(name).weight.data
        weight += 0.3 * draw(*weight.shape, seed=k)
    wanted = {name: outputs(net, x, name) for name in ("ln1", "ln2")}
    assert (outputs(moved, x, "ln2")[0] - wanted["ln2"][0]).abs().max() > 0.01
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    changed = match(net, moved, [x])
    assert set(changed) == {"ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias"}
    for name, (mean, var) in wanted.items():
        close(outputs(moved, x, name)[0], mean)
        close(outputs(moved, x, name)[1], var)
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


class ChannelsFirst(nn.LayerNorm):
    """Permutes, normalises and permutes back, as timm's LayerNorm2d and SqueezeBERT's do."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ByHand(nn.LayerNorm):
    """Never calls layer_norm, as ConvNeXt's of transformers."""

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + self.eps).sqrt()
        shape = (-1, *[1] * (x.dim() - 2))
        return self.weight.view(shape) * x + self.bias.view(shape)


class Doubled(nn.LayerNorm):
    """Its output is not the affine transform's: nothing can be matched through it."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("kind", [ChannelsFirst, ByHand])
def test_a_layer_norm_is_matched_along_its_own_channels(kind):
    def build():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(3, 5, 1), kind(5), nn.Conv2d(5, 4, 1)).double().eval()

    x = draw(4, 3, 5, 5)  # as many positions as channels in either direction
    net, moved = build(), build()
    net[1].weight.data.uniform_(0.5, 2)
    moved[1].load_state_dict(net[1].state_dict())
    moved[0].weight.data += 0.3 * draw(5, 3, 1, 1, seed=3)
    with torch.no_grad():
        expected = net[1](net[0](x)).movedim(1, -1).flatten(0, -2)
        assert set(match(net, moved, [x])) == {"1.weight", "1.bias"}
        found = moved[1](moved[0](x)).movedim(1, -1).flatten(0, -2)
    close(found.mean(0), expected.mean(0))
    close(found.std(0), expected.std(0))


def test_a_layer_norm_that_gives_something_else_is_left_alone():
    net = nn.Sequential(nn.Linear(3, 4), Doubled(4)).double().eval()
    moved = copy.deepcopy(net)
    moved[0].weight.data += 0.3 * draw(4, 3)
    before = {k: v.clone() for k, v in moved.state_dict().items()}
    matcher = Matcher(net, moved)
    matcher.step(draw(8, 3, seed=1))
    assert matcher.finish() == {}
    assert all(torch.equal(v, before[k]) for k, v in moved.state_dict().items())


class Parts(nn.Module):
    """Runs another network on parts of the rows and of the positions, as text does."""

    def __init__(self, net, parts):
        super().__init__()
        self.net, self.parts = net, parts

    def forward(self, x):
        return [self.net(x[rows, :length]) for rows, length in self.parts]


def test_a_layer_norm_that_runs_in_parts_is_matched_on_all_positions_each_counted_once():
    x = draw(12, 7, 5)
    parts = [(slice(0, 1), 1), (slice(1, 3), 4), (slice(3, 6), 7)]
    net = Transformer().double().eval()
    moved = copy.deepcopy(net)
    moved.embed.weight.data += 0.3 * draw(6, 5, seed=1)
    match(Parts(net, parts), Parts(moved, parts), x.split(6))

    def after(network):
        """All outputs of ln1: 36 positions of each of the two batches, [72, 6]."""
        at = [(batch[rows, :n]) for batch in x.split(6) for rows, n in parts]
        return torch.cat([network.ln1(network.embed(a)).flatten(0, 1) for a in at])

    with torch.no_grad():
        wanted, found = after(net), after(moved)
    assert len(wanted) == 2 * (1 + 2 * 4 + 3 * 7)
    close(found.mean(0), wanted.mean(0))
    close(found.std(0), wanted.std(0))


def test_later_layer_norms_see_parts_corrected_by_all_positions_so_far():
    x = draw(12, 7, 5)
    parts = [(slice(0, 1), 2), (slice(1, 3), 4), (slice(3, 6), 7)]
    net = Transformer().double().eval()
    moved = copy.deepcopy(net)
    moved.embed.weight.data += 0.3 * draw(6, 5, seed=1)
    work, seen = copy.deepcopy(moved), {"ln1": ([], []), "ln2": ([], [])}

    def corrected(name):
        """OBC's correction of `name` by hand, from all its outputs so far."""
        (m_f, s_f), (m_q, s_q) = (
            (y.mean(0), y.std(0, correction=0)) for y in map(torch.cat, seen[name])
        )
        norm = net.get_submodule(name)
        return norm.weight * s_f / s_q, (norm.bias - m_q) * s_f / s_q + m_f

    def put(name, weight, bias):
        norm = work.get_submodule(name)
        norm.weight.data, norm.bias.data = weight.data.clone(), bias.data.clone()

    def tail(network, y):
        y = network.plain(network.bare(y + torch.tanh(network.mlp(y))))
        return network.ln2(network.mlp(y))

    with torch.no_grad():
        for part in (batch[rows, :n] for batch in x.split(6) for rows, n in parts):
            for name in ("ln1", "ln2"):
                put(name, net.get_submodule(name).weight, net.get_submodule(name).bias)
            for network, into in zip((net, work), seen["ln1"], strict=True):
                into.append(network.ln1(network.embed(part)).flatten(0, 1))
            put("ln1", *corrected("ln1"))
            for network, into in zip((net, work), seen["ln2"], strict=True):
                into.append(tail(network, network.ln1(network.embed(part))).flatten(0, 1))
        changed = match(Parts(net, parts), Parts(moved, parts), x.split(6))
    for name in ("ln1", "ln2"):
        weight, bias = corrected(name)
        close(changed[f"net.{name}.weight"], weight.detach())
        close(changed[f"net.{name}.bias"], bias.detach())


@pytest.mark.parametrize("sizes", [[30], [1, 29], [4, 13, 13]])
def test_moments_of_parts_add_up_to_those_of_the_whole(sizes):
    x = draw(30, 4) * 3 + 5
    first, *rest = [moments(part, 1) for part in x.split(sizes)]
    total = sum(rest, start=first)
    assert total.n == 30
    close(total.mean, x.mean(0))
    close(total.var, x.var(0, correction=0))


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((6, 3, 5, 4), 1),
        ((6, 3, 9), 1),
        ((6, 3), 1),
        ((6, 5, 3), -1),
        ((1, 3, 1, 1), 1),
        ((6, 3), -1),
    ],
)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_are_mean_and_variance_over_all_other_dimensions(shape, dim, kind):
    x = (draw(*shape) * 0.1 + 7).to(kind)  # a mean far larger than what varies
    found = moments(x, dim)
    wide = x.double().movedim(dim, 0).flatten(1)
    assert found.n == wide.shape[1]
    exact = 1e-12 if kind is torch.float64 else 1e-6
    torch.testing.assert_close(found.mean, wide.mean(1), rtol=exact, atol=0)
    torch.testing.assert_close(found.var, wide.var(1, correction=0), rtol=10 * exact, atol=1e-10)


class InParts(nn.Module):
    """A LayerNorm that runs on one row, then on all others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm = nn.Linear(8, 5), nn.LayerNorm(5)

    def forward(self, x):
        y = torch.tanh(self.conv1(x.mean((1, 2))))
        return torch.cat([self.norm(y[:1]), self.norm(y[1:])])


@pytest.mark.parametrize("build", [network, lambda: InParts().double().eval()])
def test_shifts_of_parts_add_up_to_those_of_all_batches(build):
    reference, x = build(), draw(20, 3, 8, 8).split(8)
    with torch.no_grad():
        changed = copy.deepcopy(reference)
        changed.conv1.weight.mul_(1.3)
    together = Matcher(reference, copy.deepcopy(changed))
    parts = [Matcher(reference, copy.deepcopy(changed)) for _ in range(3)]
    for number, batch in enumerate(x):
        together.step(batch)
        parts[number % 2].step(batch)  # the third one has none
    parts[2].shifts = sum((p.shifts for p in parts[1:]), parts[0].shifts)
    expected, found = together.finish(), parts[2].finish()
    assert expected and set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9)


def test_matching_without_a_batch_is_refused():
    net = network()
    with pytest.raises(ValueError, match="no calibration batch"):
        Matcher(net, copy.deepcopy(net)).finish()


def reestimated(net, batches, passes=PASSES):
    """The statistics after these passes, and how many it took."""
    changes = []
    while len(changes) < passes and (not changes or changes[-1] >= SETTLED):
        with torch.no_grad(), observing(net) as seen:
            for batch in batches:
                net(batch)
        changes.append(seen.write_to(net))
    return running_statistics(net), len(changes)


def test_reestimated_statistics_are_those_of_what_each_norm_gets():
    """Settled: every norm's inputs have its running mean and variance, unlike before."""
    x = draw(16, 3, 8, 8)
    net = noisy(network())
    net.drop = nn.Dropout()
    found, count = reestimated(net.eval(), x.split(5))
    assert 1 < count < PASSES and set(found) == {
        f"{n}.{k}" for n in NORMS for k in ("running_mean", "running_var")
    }
    for name in NORMS:
        mean, var = before(net, x, name)
        inputs = 16 * 36 if name != "bn3" else 16
        norm, deviation = net.get_submodule(name), var.sqrt()
        exact = 1e-9 if name == "bn1" else 2 * SETTLED
        close(norm.running_mean / deviation, mean / deviation, exact)
        close(norm.running_var / var, torch.full_like(var, inputs / (inputs - 1)), 2 * exact)
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("size", [65, 64, 8, 1])
def test_reestimated_statistics_do_not_depend_on_the_batches(size):
    x = draw(65, 3, 8, 8) + 3 * draw(65, 3, 1, 1, seed=1)  # images differ in brightness
    whole, _ = reestimated(network(), [x])
    for name, value in reestimated(network(), x.split(size))[0].items():
        close(value, whole[name])


def test_pooled_inputs_of_parts_add_up_to_those_of_all_batches():
    x = draw(20, 3, 8, 8).split(8)  # the last one is smaller
    net, parts = network(), []
    for share in (x, x[::2], x[1::2], ()):
        with torch.no_grad(), observing(net) as part:
            for batch in share:
                net(batch)
        parts.append(part)
    total = sum(parts[2:], parts[1])
    for name, whole in parts[0].inputs.items():
        assert total.inputs[name].n == whole.n
        close(total.inputs[name].mean, whole.mean)
        close(total.inputs[name].var, whole.var)


def test_observing_leaves_the_network_as_it_was_even_after_an_error():
    net = network()
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="channels"), observing(net):
        net(draw(2, 4, 8, 8))
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_reestimate_without_a_batch_norm_is_refused_with_the_alternatives():
    with pytest.raises(ValueError, match="needs a BatchNorm; use batchnorm=match or none"):
        observing(nn.Linear(2, 2)).__enter__()


@pytest.mark.parametrize(("shape", "dim"), [((5, 3), 1), ((5, 3, 4, 2), 1), ((5, 4, 3), -1)])
def test_moments_are_taken_over_all_dimensions_but_the_channels(shape, dim):
    x = draw(*shape)
    found = moments(x, dim)
    mean, var = found.mean, found.var
    assert found.n == x.numel() // 3
    for k in range(3):
        own = x.select(dim, k)
        assert float(mean[k]) == pytest.approx(float(own.mean()), abs=1e-12)
        assert float(var[k]) == pytest.approx(float(((own - own.mean()) ** 2).mean()), abs=1e-12)


def test_running_statistics_are_copies():
    net = network()
    kept = running_statistics(net)["bn1.running_mean"]
    kept += 1
    assert not torch.equal(kept, net.bn1.running_mean)


def test_what_the_quantized_network_has_for_statistics_before_does_not_count():
    images = draw(40, 3, 6, 6, seed=5)
    reference = network(calibrated_on=images)
    found = []
    for offset in (0.0, 3.0):
        quantized = copy.deepcopy(reference)
        for source, norm in zip(SOURCES, NORMS, strict=True):
            quantized.get_submodule(source).weight.data.mul_(1.1)
            quantized.get_submodule(norm).running_mean.add_(offset)
        matcher = Matcher(reference, quantized)
        for part in images.split(20):
            matcher.step(part)
        found.append(matcher.finish())
    for name, value in found[0].items():
        close(found[1][name], value)
