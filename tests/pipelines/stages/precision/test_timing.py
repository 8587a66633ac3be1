"""The layer that is timed is the layer; timings are kept with their spread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from pipelines.cli import typecheck
from pipelines.cli.overrides import CONF
from pipelines.machine.host import Host
from pipelines.machine.machine import Machine
from pipelines.onnx import session
from pipelines.onnx.layer import Affine, float_model, int8_model
from pipelines.stages.precision.timing import OPERATORS, TimeLayer, cost_model, measure, timing
from pipelines.store.store import Store
from quant.calls import Call
from quant.costs.device import WIDTHS
from quant.costs.geometry import LayerGeometry, geometry_of
from quant.costs.measured import Measured, Timing
from quant.costs.workload import Workload, workloads
from quant.layers import find

MACHINE = Machine("cpu", 1, "32-true", 1)
STAGE = TimeLayer(repeats=5, attempts=9, warmup=1)
SHAPES = {  # name: (input, weight, arguments of conv2d)
    "plain": ((1, 6, 9, 8), (10, 6, 3, 3), {"padding": 1}),
    "strided": ((1, 4, 9, 8), (6, 4, 3, 2), {"stride": (2, 1), "padding": (0, 2)}),
    "dilated": ((1, 4, 9, 8), (6, 4, 3, 3), {"dilation": (2, 1)}),
    "same": ((1, 4, 9, 8), (6, 4, 4, 2), {"padding": "same"}),
    "grouped": ((1, 8, 9, 8), (12, 2, 3, 3), {"groups": 4}),
    "depthwise": ((1, 16, 9, 8), (16, 1, 3, 3), {"groups": 16, "padding": 1}),
    "pointwise": ((2, 32, 5, 5), (16, 32, 1, 1), {}),
    "linear": ((7, 24), (10, 24), {}),
}


def layer(name):
    """(use, weight, bias, x of 7-bit codes, the output that PyTorch gives in float64)."""
    shape, weight_shape, arguments = SHAPES[name]
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(weight_shape, generator=draw), torch.randn(10, generator=draw)
    bias = bias.repeat(2)[: weight_shape[0]]
    # codes of at most 127: processors without VNNI saturate sums of two larger products
    x = torch.randint(0, 128, shape, generator=draw) * 0.02 - 1.2
    call = F.linear if len(shape) == 2 else F.conv2d
    expected = call(x.double(), weight.double(), bias.double(), **arguments)
    use = geometry_of(Call(x, weight, **arguments))
    return use, weight.numpy(), bias.numpy(), x.numpy(), expected.numpy()


def run(model, x):
    return session.session(model, 1).run(None, {"x": x})[0]


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", SHAPES)
def test_the_float_onnx_layer_is_the_layer(name):
    use, weight, bias, x, expected = layer(name)
    result = run(float_model(use, weight, bias), x)
    assert result.shape == use.output
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", SHAPES)
def test_the_int8_onnx_layer_is_the_layer_within_its_rounding(name):
    use, weight, bias, x, expected = layer(name)
    grid, result = Affine(0.02, 60), Affine.covering(expected)
    codes = run(int8_model(use, weight, bias, grid, result), grid.codes(x))
    assert codes.dtype == np.uint8 and codes.shape == use.output
    # weights are off by half a step of their row, the bias and the output by half of theirs
    rows = np.abs(weight.reshape(len(weight), -1)).max(1) / 127
    seen = np.abs(x).max() * weight[0].size
    bound = rows * (seen / 2 + 0.01) + 0.51 * result.scale
    bound = bound.reshape((1, -1, 1, 1) if x.ndim == 4 else (1, -1))
    error = np.abs(result.decode(codes) - expected)
    assert (error <= bound).all()
    assert np.sqrt((error**2).mean()) < 0.02 * expected.std() + 0.3 * result.scale


def test_codes_cover_the_numbers_and_keep_zero():
    numbers = np.linspace(-1, 3, 50, dtype=np.float32)
    grid = Affine.covering(numbers)
    np.testing.assert_allclose(grid.decode(grid.codes(numbers)), numbers, atol=grid.scale * 0.51)
    assert grid.decode(grid.codes(np.zeros(1))) == 0
    assert Affine.covering(np.zeros(3)).codes(np.zeros(3)).tolist() == [0, 0, 0]


class Two(nn.Module):
    """Two convolutions of the same geometry, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


@pytest.fixture
def work():
    torch.manual_seed(0)
    model, x = Two().eval(), torch.rand(1, 8, 6, 6)
    return workloads(model, x, find(model, x)[0])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def artifacts(store):
    return sorted((store.root / "TimeLayer").glob("*/done.json"))


def test_layers_of_one_geometry_are_timed_once_and_kept_with_their_spread(store, work):
    model = measure(STAGE, store, work, MACHINE)
    assert len(artifacts(store)) == len(model.table) == 2
    before = [path.with_name("record.json").stat().st_mtime_ns for path in artifacts(store)]
    assert measure(STAGE, store, work, MACHINE) == model
    after = [path.with_name("record.json").stat().st_mtime_ns for path in artifacts(store)]
    assert after == before, "a second measuring writes nothing"
    for name, layer in work.items():
        for bits in ((8, 8), (16, 16)):
            (found,) = model.timings(layer, *bits)
            assert 0 < found.low <= found.ms <= found.high and found.runs == 5, name
            assert model.cost(layer, *bits) == found.ms
    first, second = work["first"], work["second"]
    assert model.cost(first, 4, 8) == model.cost(second, 8, 8)
    assert model.cost(first, 4, 16) == model.cost(first, 16, 16)


@pytest.mark.parametrize(
    "change", [{"cpu": "another"}, {"onnxruntime": "1.0"}, {"threads": 7}, {"instructions": "x"}]
)
def test_another_machine_or_onnxruntime_is_timed_anew(store, work, change, monkeypatch):
    measure(STAGE, store, work, MACHINE)
    here = Host.of(MACHINE)
    assert here.cpu and here.onnxruntime and here.cores >= 1
    monkeypatch.setattr(Host, "of", lambda machine: replace(here, **change))
    assert replace(here, **change).key != here.key
    measure(STAGE, store, work, MACHINE)
    assert len(artifacts(store)) == 4


def test_a_layer_that_ran_in_another_precision_is_refused():
    with pytest.raises(ValueError, match=r"has no int8 kernel for this layer: it ran Conv, Quant"):
        timing("int8", {"Conv": [1.0], "QuantizeLinear": [1.0]}, 0)


def test_the_median_and_the_percentiles_are_of_the_layer_alone():
    operators = {"QLinearConv": [float(n) for n in range(11)], "Transpose": [9.0] * 11}
    assert timing("int8", operators, 3) == Timing(5.0, 1.0, 9.0, runs=11, interrupted=3)


def test_the_least_interrupted_runs_count(monkeypatch):
    use, weight, bias, x, _ = layer("linear")
    models = {name: (float_model(use, weight, bias), x) for name in ("a", "b")}
    seen = iter([0, 0, *[0, 5, 0, 0], *[0, 1, 0, 0], *[0, 0, 0, 0], *[0, 2, 0, 1]])
    monkeypatch.setattr(session, "_interruptions", lambda: next(seen))
    seen_times = [[9.0, 50.0, 10.0, 0.5, 20.0], [9.0, 1.0, 2.0, 3.0, 4.0]]
    times = iter({"Gemm": each} for each in seen_times)
    monkeypatch.setattr(session, "_operators", lambda path: next(times))
    found = session.time_interleaved(models, 1, warmup=1, repeats=3, attempts=4)
    assert found["a"] == session.Latencies({"Gemm": [0.5, 10.0, 20.0]}, interrupted=2)
    assert found["b"] == session.Latencies({"Gemm": [1.0, 2.0, 3.0]}, interrupted=0)


def test_runs_end_when_enough_were_not_interrupted(monkeypatch):
    use, weight, bias, x, _ = layer("linear")
    monkeypatch.setattr(session, "_interruptions", lambda: 0)
    models = {"a": (float_model(use, weight, bias), x)}
    times = []
    read = session._operators
    monkeypatch.setattr(session, "_operators", lambda p: times.append(read(p)) or times[0])
    found = session.time_interleaved(models, 1, warmup=2, repeats=3, attempts=99)
    (name,) = found["a"].operators
    assert name in OPERATORS["float32"] and times[0][name][2:] == found["a"].operators[name]
    assert len(times[0][name]) == 5 and found["a"].interrupted == 0


def test_a_failure_names_the_layer(store, work, monkeypatch):
    runs = session.Latencies({"Conv": [1.0]}, 0)
    monkeypatch.setattr(session, "time_interleaved", lambda *a: {"int8": runs})
    with pytest.raises(ValueError, match="no int8 kernel") as error:
        measure(STAGE, store, work, MACHINE)
    assert error.value.__notes__ == ["in layer first"]


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match=r"cost\.repeats=0 must be at least 1"):
        TimeLayer(repeats=0, attempts=1, warmup=0)


def composed(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", list(words))
    typecheck.check({"cost": cfg.cost})
    return instantiate(cfg.cost, _convert_="all")


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "cost").glob("*.yaml")))
def test_every_cost_model_of_the_configuration_costs_a_network(name, store, work):
    given = composed(f"+cost={name}")
    given = replace(given, repeats=2) if isinstance(given, TimeLayer) else given
    model = cost_model(given, store, work, MACHINE)
    assert (model.name, model.unit) == (name, {"size": "MB", "bops": "GBOPs"}.get(name, "ms"))
    assert isinstance(model, Measured) == (name == "measured")
    assert sum(model.cost(layer, 8, 8) for layer in work.values()) > 0


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "device").glob("*.yaml")))
def test_every_device_is_chosen_by_name_and_has_sane_numbers(name):
    model = composed("+cost=roofline", f"device={name}")
    other = composed("+cost=roofline")
    assert (model == other) == (name == "a100")
    assert set(model.device.peak_tops) <= set(WIDTHS)
    work = Workload("", (256, 256, 3, 3), 1, 196, 50176, 50176)
    costs = [model.cost(work, *bits) for bits in ((4, 4), (4, 8), (8, 8), (4, 16), (16, 16))]
    assert costs == sorted(costs)


def test_a_device_without_a_number_is_refused_by_its_key():
    with pytest.raises(InstantiationException) as error:
        composed("+cost=roofline", "~device.launch_us")
    assert "missing launch_us" in str(error.value.__cause__ or error.value)


def test_a_use_of_a_batch_folded_into_windows_keeps_its_images():
    use = geometry_of(Call(torch.rand(4, 3, 5, 5), torch.rand(2, 3, 3, 3)))
    assert use == LayerGeometry((2, 3, 3, 3), 1, (4, 3, 5, 5), (4, 2, 3, 3))
    assert use.positions == 4 * 9
