"""Layers as matrices: W X + bias is the module's own output, whatever its geometry."""

from __future__ import annotations

import itertools
import re
import weakref
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant import calls
from quant.calls import Call, Calls
from quant.folding import folded
from quant.hessian import HessianSum
from quant.layers import Layer, find, from_matrix, to_matrix


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def calls_of(model, *x):
    """Every linear or conv2d call on a parameter of `model`, and the model's output."""
    calls = []
    parameters = {n: p for n, p in model.named_parameters() if p.dim() >= 2}
    with torch.no_grad(), Calls(parameters, lambda name, _, call: calls.append((name, call))):
        output = model(*x)
    return calls, output


def columns_by_hand(conv, x):
    """X [g, c, n] by looping over output positions and kernel taps; x is already padded."""
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    b, channels, height, width = x.shape
    rows = range(0, height - dh * (kh - 1), sh)
    cols = range(0, width - dw * (kw - 1), sw)
    own = channels // conv.groups
    X = torch.empty(conv.groups, own * kh * kw, b * len(rows) * len(cols)).double()
    for group in range(conv.groups):
        for n, (image, top, left) in enumerate(itertools.product(range(b), rows, cols)):
            patch = [
                x[image, group * own + k, top + i * dh, left + j * dw]
                for k in range(own)
                for i in range(kh)
                for j in range(kw)
            ]
            X[group, :, n] = torch.stack(patch)
    return X


def check_conv(conv, x):
    """The unfolded input gives the output and the Hessian."""
    conv = conv.double().eval()
    ((_, call),), output = calls_of(conv, x)
    assert call.groups == conv.groups
    X, W = call.unfold(), to_matrix(conv.weight.detach(), conv.groups)
    Y = (W @ X).flatten(0, 1) + conv.bias.detach()[:, None]
    if x.dim() == 3:
        output = output[None]
    close(Y, output.transpose(0, 1).flatten(1))
    total = HessianSum()
    for piece in call.pieces():
        total.add(piece)
    close(total.hessian(), 2 / X.shape[2] * X @ X.mT)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, (2, 1), "valid"])
def test_a_conv_is_its_matrix_times_its_unfolded_input(kernel, groups, padding):
    x = draw(2, 4, 10, 9)
    for stride, dilation in itertools.product((1, 2, (2, 1)), (1, 2, (1, 2))):
        check_conv(nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups), x)


@pytest.mark.parametrize("kernel", [1, 3, (2, 3)])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, (1, 2)])
def test_the_unfolded_input_is_what_the_kernel_sees_position_by_position(kernel, groups, stride):
    conv = nn.Conv2d(4, 4, kernel, stride, (1, 2), (2, 1), groups).double()
    x = draw(2, 4, 6, 5)
    ((_, call),), _ = calls_of(conv, x)
    assert torch.equal(call.unfold(), columns_by_hand(conv, F.pad(x, (2, 2, 1, 1))))


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")
@pytest.mark.parametrize("kernel", [1, 3, (2, 3)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("padding", [0, (2, 1), "same"])
@pytest.mark.parametrize("stride", [1, (1, 2), 3])
def test_sampled_positions_are_columns_of_the_unfolded_input(kernel, groups, padding, stride):
    if padding == "same" and stride != 1:
        pytest.skip("torch has no strided same padding")
    conv = nn.Conv2d(4, 4, kernel, stride, padding, 2, groups).double()
    ((_, call),), _ = calls_of(conv, draw(3, 4, 11, 9))
    X = call.unfold()
    per_image, count = X.shape[2] // 3, 4
    (some,) = call.sampled(count, [7, 8, 9])
    assert some.shape == (groups, X.shape[1], 3 * count)
    for image in range(3):
        own = X[..., image * per_image : (image + 1) * per_image]
        found = [
            [n for n in range(per_image) if torch.equal(own[..., n], some[..., image * count + k])]
            for k in range(count)
        ]
        for k, places in enumerate(found):  # from the k-th of `count` equal parts
            low, high = k * per_image / count, (k + 1) * per_image / count
            assert any(low - 1 < n < high for n in places), (image, k, places)
    (again,) = call.sampled(count, [1, 8, 2])
    assert torch.equal(again[..., count : 2 * count], some[..., count : 2 * count])
    assert not torch.equal(again, some)
    assert torch.equal(torch.cat(list(call.sampled(per_image, [1, 2, 3])), 2), X)


def test_sampled_positions_of_a_linear_layer_are_tokens():
    linear = nn.Linear(5, 2).double()
    x = draw(3, 4, 6, 5)
    ((_, call),), _ = calls_of(linear, x)
    (some,) = call.sampled(7, [1, 2, 3])
    tokens = [{tuple(t) for t in image.reshape(-1, 5).tolist()} for image in x]
    assert some.shape == (1, 5, 21)
    for n, column in enumerate(some[0].T.tolist()):
        assert tuple(column) in tokens[n // 7]
    ((_, flat),), _ = calls_of(linear, x[0, 0])
    assert torch.equal(torch.cat(list(flat.sampled(7, range(4))), 2), flat.unfold())


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (3, 1), (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
@pytest.mark.parametrize("groups", [1, 4])
def test_same_padding_is_that_of_torch_for_odd_and_even_kernels(kernel, dilation, groups):
    check_conv(
        nn.Conv2d(4, 4, kernel, padding="same", dilation=dilation, groups=groups), draw(2, 4, 9, 8)
    )


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [1, (2, 1), "same"])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_padding_mode_is_seen_as_it_is(mode, padding, groups):
    conv = nn.Conv2d(4, 6, 3, padding=padding, padding_mode=mode, groups=groups)
    check_conv(conv, draw(2, 4, 7, 6))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3])
def test_unbatched_input_and_depthwise_multipliers(groups, multiplier, kernel):
    conv = nn.Conv2d(4, 4 * multiplier, kernel, padding=1, groups=groups)
    check_conv(conv, draw(4, 7, 6))
    check_conv(conv, draw(3, 4, 7, 6))


class PadsItself(nn.Conv2d):
    """TensorFlow's "same" padding for stride 2: more below and right."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def test_a_conv_that_pads_its_own_input_is_seen_padded():
    check_conv(PadsItself(3, 4, 3, stride=2), draw(2, 3, 8, 8))


@pytest.mark.parametrize("piece", [1, 100, 150, 10**9])
@pytest.mark.parametrize("dim", [2, 4])
def test_pieces_are_the_whole_in_order_and_small(piece, dim, monkeypatch):
    if dim == 2:
        model, x, one = nn.Linear(6, 2).double(), draw(37, 6), 6
    else:
        model, x, one = nn.Conv2d(2, 4, 2, groups=2).double(), draw(5, 2, 4, 3), 2 * 4 * 12
    ((_, call),), _ = calls_of(model, x)
    whole = call.unfold()
    monkeypatch.setattr(calls, "PIECE", piece)
    pieces = list(call.pieces())
    assert torch.equal(torch.cat(pieces, dim=2), whole)
    assert all(p.numel() <= max(piece, one) for p in pieces)
    assert (len(pieces) > 1) == (piece < 200)


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (2, 3, 5, 6), (6,)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_any_number_of_positions(shape, bias):
    linear, x = nn.Linear(6, 4, bias=bias).double(), draw(*shape)
    ((_, call),), output = calls_of(linear, x)
    X = call.unfold()
    assert X.shape == (1, 6, x.numel() // 6)
    Y = (to_matrix(linear.weight.detach(), 1) @ X)[0].T
    close((Y + linear.bias.detach() if bias else Y).reshape(output.shape), output)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_matrix_is_the_weight_group_by_group_and_back(groups):
    weight = draw(12, 6 // groups, 3, 2)
    W = to_matrix(weight, groups)
    assert W.shape == (groups, 12 // groups, 36 // groups)
    for group in range(groups):
        own = weight[group * 12 // groups : (group + 1) * 12 // groups]
        assert torch.equal(W[group], own.flatten(1))
    assert torch.equal(from_matrix(W, weight.shape), weight)


def test_arguments_by_name_are_read_like_arguments_in_order():
    x, w, b = draw(1, 4, 9, 9), draw(6, 2, 3, 3), draw(6)
    in_order = Call.of(F.conv2d, (x, w, b, 2, 1, 3, 2), {})
    by_name = Call.of(
        F.conv2d,
        (),
        {"groups": 2, "dilation": 3, "padding": 1, "stride": 2, "bias": b, "weight": w, "input": x},
    )
    assert torch.equal(in_order.unfold(), by_name.unfold())
    assert (in_order.stride, in_order.padding, in_order.dilation, in_order.groups) == (2, 1, 3, 2)
    seen = []
    with Calls({"w": w}, lambda name, _, call: seen.append(call)):
        F.conv2d(x, bias=b, weight=w, groups=2)
    assert torch.equal(seen[0].unfold(), Call(x, w, groups=2).unfold())


def test_find_lists_layers_in_order_of_use_and_leaves_the_model_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(8, 3)
            self.first = nn.Conv2d(4, 8, 3, groups=2)

        def forward(self, x):
            return self.last(self.first(x).mean((2, 3)))

    model = Model().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found, skipped = find(model, torch.randn(2, 4, 6, 6))
    assert list(found.values()) == [
        Layer("first", "first.weight", (8, 2, 3, 3), 2),
        Layer("last", "last.weight", (3, 8), 1),
    ]
    assert list(found) == ["first", "last"] and skipped == []
    assert (found["first"].rows, found["first"].columns) == (4, 18)
    assert (found["last"].rows, found["last"].columns) == (3, 8)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias)


class Projected(nn.Module):
    """A matrix that is used by the operator @."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.matrix


class Unused(nn.Linear):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "x", "reason"),
    [
        (Standardised(3, 4, 3), torch.randn(1, 3, 5, 5), "used by (sub|mean)"),
        (nn.ConvTranspose2d(3, 4, 3), torch.randn(1, 3, 5, 5), "used by conv_transpose2d"),
        (nn.Conv1d(3, 4, 3), torch.randn(1, 3, 5), "used by conv1d"),
        (nn.Conv3d(3, 4, 3), torch.randn(1, 3, 5, 5, 5), "used by conv3d"),
        (nn.Embedding(7, 4), torch.tensor([[1, 2]]), "used by embedding"),
        (nn.Bilinear(3, 3, 4), torch.randn(2, 3), "used by bilinear"),
        (Projected(), torch.randn(2, 4), "used by matmul"),
        (Unused(3, 4), torch.randn(2, 3), "not used by linear or conv2d"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_quantized_is_skipped_with_its_name_shape_and_reason(module, x, reason):
    model = nn.Sequential(module).eval()
    example = x
    if isinstance(module, nn.Bilinear):
        model, example = nn.ModuleList([module]), x
        model.forward = lambda x: module(x, x)
    found, (skipped,) = find(model, example)
    name, weight = next((n, p) for n, p in model.named_parameters() if p.dim() >= 2)
    assert found == {}
    assert (skipped.name, skipped.shape) == (name, tuple(weight.shape))
    assert re.fullmatch(reason, skipped.reason), skipped.reason


class Twice(nn.Module):
    """One weight under two names, and called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x)) + self.one(2 * x)


def test_tied_weights_are_one_layer_whose_hessian_adds_up_every_use():
    model, x = Twice().double().eval(), draw(5, 4)
    found, skipped = find(model, x)
    assert list(found) == ["one"] and skipped == []
    calls, _ = calls_of(model, x)
    assert [name for name, _ in calls] == ["one.weight"] * 3
    total = HessianSum()
    for _, call in calls:
        total.add(call.unfold())
    inputs = torch.cat([x, model.one(x).detach(), 2 * x]).T
    close(total.hessian()[0], 2 / 15 * inputs @ inputs.T)


def test_an_embedding_tied_to_a_linear_layer_is_skipped():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)).eval()
    model[1].weight = model[0].weight
    found, (skipped,) = find(model, torch.tensor([[1, 2]]))
    assert found == {} and skipped.reason == "used by embedding"


def test_a_weight_used_with_two_group_counts_is_skipped():
    class Model(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight, groups=2) + F.conv2d(x[:, :2], self.weight)

    found, (skipped,) = find(Model(4, 4, 3, groups=2).eval(), torch.randn(1, 4, 5, 5))
    assert found == {} and skipped.reason == "shared by convolutions with different groups"


def test_reading_attributes_of_a_weight_does_not_spoil_it():
    class Reads(nn.Linear):
        def forward(self, x):
            x = x.to(self.weight.dtype).to(self.weight.device).reshape(-1, self.weight.shape[1])
            return super().forward(x) * (1 if self.weight.requires_grad else 2)

    found, skipped = find(nn.Sequential(Reads(4, 3)).eval(), torch.randn(2, 4))
    assert list(found) == ["0"] and skipped == []


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x @ w.T,
        lambda x, w: F.linear(x, w[:1]),
        lambda x, w: x * w.mT.sum(),
        lambda x, w: torch.cat([x, w]).sum(),
    ],
    ids=["transposed", "sliced", "mT", "in a list"],
)
def test_a_layer_whose_weight_is_also_used_another_way_is_skipped(use):
    class Also(nn.Linear):
        def forward(self, x):
            return super().forward(x) + use(x, self.weight)

    found, skipped = find(nn.Sequential(Also(4, 4)).eval(), torch.randn(2, 4))
    assert found == {} and [x.name for x in skipped] == ["0.weight"]


class Normed(nn.Module):
    """Which outputs are normalised as they are, by a BatchNorm of their own?"""

    def __init__(self):
        super().__init__()
        self.direct, self.after_relu, self.twice, self.a, self.b = (
            nn.Conv2d(4, 4, 1) for _ in range(5)
        )
        self.norm, self.late, self.first, self.second, self.shared = (
            nn.BatchNorm2d(4) for _ in range(5)
        )
        self.still = nn.BatchNorm2d(4, track_running_stats=False)
        self.own, self.line, self.flat = nn.Conv2d(4, 4, 1), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.norm(self.direct(x))
        x = self.late(self.after_relu(x).relu())
        y = self.twice(x)
        x = self.first(y) + self.second(y)
        x = self.shared(self.a(x)) + self.shared(self.b(x))
        return self.flat(self.line(self.still(self.own(x)).mean((2, 3))))


def test_the_batchnorm_behind_a_layer_is_named_where_both_have_only_each_other():
    layers, _ = find(Normed().eval(), torch.randn(2, 4, 3, 3))
    norms = {name: layer.norm for name, layer in layers.items()}
    expected = {"direct": "norm.running_mean", "line": "flat.running_mean"}
    assert norms == {**dict.fromkeys(norms, ""), **expected}


@dataclass
class Outputs:
    logits: torch.Tensor
    features: torch.Tensor


class Way(nn.Module):
    """A convolution and a BatchNorm, with `way` between them."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.bn, self.way = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), way
        self.other = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.way(self, x)


def changed(change):
    """conv -> change, in place or not -> BatchNorm."""

    def way(m, x):
        y = m.conv(x)
        z = change(y)
        return m.bn(y if z is None else z)

    return way


def write_to_a_view(y):
    y[:, :1] += 1


def used_twice(m, x):
    y = m.conv(x)
    return m.bn(y) + y


def read_as_number(m, x):
    y = m.conv(x)
    return m.bn(y) * y.sum().item()


def kept_in_a_dataclass(m, x):
    y = m.conv(x)
    return Outputs(m.bn(y), y)


def norm_used_again(m, x):
    return m.bn(m.conv(x)) + m.bn(m.other(x))


ALONE = {
    "directly": lambda m, x: m.bn(m.conv(x)),
    "and an operation behind": lambda m, x: F.relu_(m.bn(m.conv(x))),
    "each time": lambda m, x: m.bn(m.conv(x)) + m.bn(m.conv(x.flip(1))),
    "beside a branch of the input": lambda m, x: m.bn(m.conv(x)) + m.other(x),
    "while its shape is read": changed(lambda y: y.shape and y.dim() and None),
}
NOT_ALONE = {
    "relu": changed(F.relu),
    "relu_": changed(F.relu_),
    "inplace argument": changed(lambda y: F.relu(y, inplace=True)),
    "+=": changed(lambda y: y.__iadd__(1)),
    "add_": changed(lambda y: y.add_(1)),
    "out=": changed(lambda y: torch.mul(y, 2, out=y)),
    "write to a part": changed(lambda y: y.__setitem__(0, 1)),
    "write to a view": changed(write_to_a_view),
    "write through chunks": changed(lambda y: (y.chunk(3, 1)[1].zero_(), None)[1]),
    "foreach": changed(lambda y: torch._foreach_add_([y], 1) and None),
    "view": changed(lambda y: y.flatten(2).unflatten(2, (6, 6))),
    "used twice": used_twice,
    "read as a number": read_as_number,
    "returned": lambda m, x: (lambda y: (m.bn(y), {"y": [y]}))(m.conv(x)),
    "returned in a dataclass": kept_in_a_dataclass,
    "weight used without the norm": lambda m, x: m.conv(x) + m.bn(m.conv(x.flip(1))),
    "norm used without the weight": norm_used_again,
    "norm in training": lambda m, x: F.batch_norm(m.conv(x), None, None, training=True),
}


def random_statistics(way):
    torch.manual_seed(0)
    net = Way(way).eval()
    net.bn.running_mean.normal_()
    net.bn.running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("way", [*ALONE, *NOT_ALONE])
def test_a_layer_is_tied_to_a_batchnorm_only_where_that_is_true(way):
    net = random_statistics({**ALONE, **NOT_ALONE}[way])
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    layers, _ = find(net, x)
    assert layers["conv"].norm == ("bn.running_mean" if way in ALONE else "")
    with torch.no_grad():
        expected, found = net(x), folded(net, layers)(x)
    pairs = zip(tensors(expected), tensors(found), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in pairs)


def tensors(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    parts = vars(outputs).values() if isinstance(outputs, Outputs) else parts
    return [x for part in parts for x in tensors(part)]


def test_nothing_of_a_traced_run_stays_in_memory():
    alive = []

    def way(m, x):
        y = m.bn(m.conv(x))
        alive.append(weakref.ref(y))
        for _ in range(20):
            y = y + 1
            assert sum(r() is not None for r in alive) <= 2
            alive.append(weakref.ref(y))
        return y

    find(random_statistics(way), torch.randn(1, 3, 6, 6))


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_projections_of_self_attention_are_linear_layers(batch_first):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).eval()
    x = torch.randn(2, 5, 8)
    layers, skipped = find(encoder, x)
    names = ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"]
    assert list(layers) == names and skipped == []
    seen = {}
    weights = {n: encoder.get_parameter(layer.weight) for n, layer in layers.items()}
    with torch.no_grad(), Calls(weights, lambda n, _, call: seen.setdefault(n, call)):
        out = encoder(x)
    assert torch.allclose(out, encoder(x), atol=1e-6)
    rows = x.transpose(0, 1) if batch_first else x  # attention runs time first
    assert torch.equal(seen[names[0]].unfold()[0], rows.reshape(-1, 8).T)


def test_cross_attention_uses_parts_of_its_weight():
    attention = nn.MultiheadAttention(8, 2).eval()

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, 2 * x, 2 * x)[0]

    layers, skipped = find(Cross(), torch.randn(5, 2, 8))
    assert list(layers) == ["attention.out_proj"]
    assert [s.name for s in skipped] == ["attention.in_proj_weight"]
