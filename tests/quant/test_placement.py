"""Where quantizers sit: at layer inputs, or where the inputs and outputs of layers are made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from quant.activations import Place, observing, with_quantizers
from quant.layers import find
from quant.placement import at_inputs, at_outputs
from quant.ranges import fit

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Cross(nn.Linear):
    """Projects its second argument."""

    def forward(self, queries, keys):
        return queries + F.linear(keys, self.weight, self.bias)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.cross, self.out = nn.LayerNorm(8), Cross(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.norm(x)
        return self.out(self.cross(2 * y, y))


class Residual(nn.Module):
    """A stem, a residual block with a convolution on its shortcut, and what may lie between."""

    def __init__(self, inplace=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)
        )
        self.pool = nn.MaxPool2d(2)
        self.first, self.norm, self.act = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.SiLU(inplace)
        self.second = nn.Conv2d(6, 6, 1)
        self.shortcut = nn.Conv2d(4, 6, 1)
        self.after = nn.ReLU(inplace)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        y = self.second(F.pad(self.act(self.norm(self.first(x))), (1, 1, 1, 1)))
        x = self.after(y + self.shortcut(x))
        return self.head(torch.cat([x, x.flip(3)], 1).mean((2, 3)))


def plan(model, how, x=IMAGES):
    layers, _ = find(model, x[:2])
    return how(model, layers, x[:2])


def test_inputs_are_quantized_at_the_layers_themselves():
    found = plan(Residual().eval(), at_inputs)
    names = ["stem.0", "first", "second", "shortcut", "head"]
    assert dict(found.places) == {name: Place(name) for name in names}
    assert dict(found.feeds) == {name: (name,) for name in names} and found.left_out == {}


def test_inputs_that_are_not_the_modules_first_argument_are_named():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    found = plan(Attention().eval(), at_inputs, x)
    assert list(found.feeds) == list(found.places) == ["out"]
    assert list(found.left_out) == ["cross"]
    assert "not the first argument" in found.left_out["cross"]


@pytest.mark.parametrize("inplace", [False, True])
def test_what_enters_or_leaves_layers_is_quantized_where_it_is_made(inplace):
    found = plan(Residual(inplace).eval(), at_outputs)
    behind = ["stem.2", "act", "second", "shortcut"]
    wanted = {f"{name}:output": Place(name, behind=True) for name in behind}
    inputs = {name: Place(name) for name in ("stem.0", "head")}  # the image; a mean by a function
    assert dict(found.places) == {**inputs, **wanted}
    assert found.feeds == {
        "stem.0": ("stem.0",),
        "first": ("stem.2:output",),
        "second": ("act:output",),
        "shortcut": ("stem.2:output",),
        "head": ("head",),
    }
    assert found.left_out == {}


def test_the_summands_of_a_residual_sum_lie_on_their_grids_then():
    model = Residual().eval()
    places = plan(model, at_outputs).places
    with torch.no_grad(), observing(model, places) as seen:
        model(IMAGES)
    grids = {n: fit(h, 3, symmetric=False, search="mse", percentile=100) for n, h in seen.items()}
    quantized = with_quantizers(model, places, grids)

    def on(name, x):
        return grids[name].round(x)

    with torch.no_grad():
        x = F.max_pool2d(on("stem.2:output", model.stem(on("stem.0", IMAGES))), 2)
        y = on("act:output", F.silu(model.norm(model.first(x))))
        y = on("second:output", model.second(F.pad(y, (1, 1, 1, 1))))
        x = F.relu(y + on("shortcut:output", model.shortcut(x)))
        expected = model.head(on("head", torch.cat([x, x.flip(3)], 1).mean((2, 3))))
        assert torch.equal(quantized(IMAGES), expected)


class Several(nn.Module):
    """A concatenation enters a layer; one activation function serves all; outputs are two."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = Conv(3), Conv(3)
        self.both = nn.Conv2d(8, 4, 1)
        self.bare = nn.Conv2d(4, 4, 1)
        self.ends = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Conv2d(8, 2, 1)])

    def forward(self, x):
        both = torch.cat([self.a(x), self.b(x)], 1)
        y = self.bare(F.relu(self.both(both)))
        y = F.relu(y) * y  # what leaves `bare` is taken twice
        return [self.ends[0](y), self.ends[1](both).flatten(2)]


class Conv(nn.Module):
    act = nn.SiLU()

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, 4, 1)
        self.act = Conv.act

    def forward(self, x):
        return self.act(self.conv(x))


def test_parts_of_a_concatenation_are_quantized_where_they_are_made():
    found = plan(Several().eval(), at_outputs)
    assert found.feeds["both"] == found.feeds["ends.1"] == ("a:output", "b:output")
    assert found.places["a:output"] == Place("a", behind=True), "the module that all share cannot"


def test_results_of_functions_are_quantized_at_layer_inputs_or_named():
    found = plan(Several().eval(), at_outputs)
    assert found.feeds["bare"] == ("bare",) and "both:output" in found.left_out
    assert found.places["bare:output"] == Place("bare", behind=True)
    assert not any(name.startswith("ends") and p.behind for name, p in found.places.items())


def test_inputs_that_are_not_first_arguments_can_be_quantized_behind_what_makes_them():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    found = plan(Attention().eval(), at_outputs, x)
    assert found.feeds == {"cross": ("norm:output",), "out": ("cross:output",)}
    assert list(found.left_out) == ["cross:output"], "its module adds to it before it gives it"


class Named(nn.Module):
    """A layer called "output", fed by a function, in a module whose own output counts."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(8, 8)

    def forward(self, x):
        return F.relu(self.output(2 * x))


def test_a_layer_called_output_is_not_taken_for_an_output():
    torch.manual_seed(0)
    found = plan(nn.Sequential(Named(), nn.Linear(8, 3)).eval(), at_outputs, torch.randn(2, 8))
    assert dict(found.places) == {
        "0.output": Place("0.output"),
        "0:output": Place("0", behind=True),
    }
    assert found.feeds == {"0.output": ("0.output",), "1": ("0:output",)}


class Sums(TorchFunctionMode):
    """How many different values each summand has."""

    def __init__(self):
        super().__init__()
        self.distinct = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") == "add":
            self.distinct += [len(x.unique()) for x in args if isinstance(x, torch.Tensor)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "sums", "layers"),
    [
        ("cifar10_resnet20", 9, 20),
        ("mobilenet_v2", 10, 53),
        ("deeplabv3_mobilenet_v2", 10, 55),
        ("yolov5n", 7, 60),
        ("sst2_bert", 10, 26),
    ],
)
def test_of_real_networks_all_summands_are_quantized(real_network, name, sums, layers):
    """All but the embeddings of words, which come out of no layer."""
    network = real_network(name)
    x = torch.randint(1, 999, (1, 12))
    if name != "sst2_bert":
        x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found = plan(network.module, at_outputs, x)
    assert len(found.feeds) == layers and not found.left_out
    with torch.no_grad(), observing(network.module, found.places) as seen:
        network.module(x)
    grids = {n: fit(h, 4, symmetric=False, search="mse", percentile=100) for n, h in seen.items()}
    quantized = with_quantizers(network.module, found.places, grids)
    with torch.no_grad(), Sums() as counted:
        quantized(x)
    assert len(counted.distinct) == 2 * sums
    free = [count for count in counted.distinct if count > 16]
    assert len(free) == (4 if name == "sst2_bert" else 0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_kind_of_padding_only_copies_values_that_are_on_the_grid(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)).eval()
    for how in (at_inputs, at_outputs):
        found = plan(net, how)
        assert dict(found.left_out) == {} and found.feeds == {"0": ("0",)}


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(2 * x, (1, 1, 1, 1)))


def test_padding_after_a_product_is_not_on_the_grid():
    found = plan(nn.Sequential(Scaled(3, 4, 3)).eval(), at_inputs)
    assert "not the first argument" in found.left_out["0"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def test_a_shared_weight_has_a_quantizer_at_each_module_that_uses_it():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    found = plan(Tied().eval(), at_inputs, x)
    assert dict(found.places) == {"a": Place("a"), "b": Place("b")}
    assert found.feeds == {"a": ("a", "b")} and found.left_out == {}


def test_attention_is_left_out_of_inputs_with_the_reason_that_is_true():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = plan(encoder, at_inputs, x)
    assert list(found.feeds) == ["linear1", "linear2"]
    assert "not the first argument" in found.left_out["self_attn.in_proj_weight"]
    assert "not called" in found.left_out["self_attn.out_proj"]
