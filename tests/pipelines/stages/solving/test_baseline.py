from __future__ import annotations

import functools
import math

import pytest
import torch

from pipelines.machine.machine import Machine
from pipelines.stages.solving import baseline
from pipelines.stages.solving.baseline import Baseline, LayerBaseline, TimeInverse, loss_ratio
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.solve import LayerInput, SolveLayer, evenly
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from quant.grid import fit
from quant.layers import Layer
from quant.methods import obq, rtn
from quant.problem import LayerProblem

ROWS, COLUMNS = 40, 6
GRID = functools.partial(
    fit,
    granularity="channel",
    symmetric=False,
    search="minmax",
    group_size=128,
    norm=2.4,
    shrink=80,
)
INVERSE, EACH = 2.0, 0.25  # seconds, on the clock of these tests


def problem():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(1, COLUMNS, 50, generator=draw)
    return LayerProblem(torch.randn(1, ROWS, COLUMNS, generator=draw), X @ X.mT / 25)


LAYER = LayerInput(Layer("one", "one.weight", (ROWS, COLUMNS), 1), problem, "problem")
BITS = Keyed(3, "3")


@pytest.fixture(autouse=True)
def _inverse(monkeypatch, passes):
    """Time passes in H^-1, and in the rows of OBQ below."""
    invert = baseline.inverse_root
    monkeypatch.setattr(baseline, "inverse_root", lambda *args: passes(INVERSE) or invert(*args))


@pytest.fixture
def run(tmp_path, passes):
    def timed(given, grid):
        passes(INVERSE + EACH * given.W.shape[1])
        return obq.quantize(given, grid)

    timed.__qualname__ = "timed"

    def run(budget, rows=8):
        store = Store(tmp_path)
        solution = store.run(SolveLayer(rtn.quantize, GRID, 0.01), Keyed(LAYER, LAYER.key), BITS)
        weights = QuantizedWeights({"one": solution}, {"one": LAYER}, {}, 0.0)
        stage = Baseline(SolveLayer(timed, GRID, 0.01), budget, rows)
        machine = Machine("cpu", 1, "32-true", None)
        return stage.run(store, weights, {"one": 3}, machine)["one"], solution

    return run


def test_where_the_budget_allows_it_all_rows_are_solved_and_measured(run):
    found, solution = run(budget=INVERSE + EACH * ROWS)
    assert (found.estimated, found.rows, found.cached) == (False, ROWS, False)
    assert found.seconds == pytest.approx(INVERSE + EACH * ROWS)
    assert torch.equal(found.method_loss, solution.tensors["loss"])


@pytest.mark.parametrize(("budget", "rows"), [(INVERSE + EACH * ROWS - 0.1, 8), (1.0, 4), (0, 1)])
def test_else_a_part_is_solved_and_the_estimate_is_right(run, budget, rows):
    found, solution = run(budget)
    assert (found.estimated, found.rows, found.cached) == (True, rows, False)
    assert found.seconds == pytest.approx(INVERSE + EACH * ROWS)
    assert torch.equal(found.method_loss, solution.tensors["loss"][:, evenly(rows, ROWS)])
    again, _ = run(budget)
    assert again.cached and again.seconds == found.seconds


def test_the_rows_that_are_solved_are_those_of_the_whole_layer(run):
    whole, _ = run(budget=1e9)
    part, _ = run(budget=0, rows=8)
    torch.testing.assert_close(part.loss, whole.loss[:, evenly(part.rows, ROWS)])


def test_evenly_spaced_rows_are_distinct_and_spread():
    assert evenly(4, 40).tolist() == [0, 10, 20, 30] and evenly(3, 10).tolist() == [0, 3, 6]
    assert evenly(50, 7).tolist() == list(range(7))


def of(ours, theirs):
    each = torch.tensor([[theirs]]), torch.tensor([[ours]])
    return LayerBaseline(1.0, False, 1, each[0].double(), each[1].double(), False)


def test_the_loss_ratio_is_a_geometric_mean_and_equal_losses_count_as_one():
    layers = {"a": of(2.0, 1.0), "b": of(1.0, 8.0), "c": of(0.0, 0.0)}
    assert loss_ratio(layers) == pytest.approx(math.exp((math.log(2) - math.log(8)) / 3))


def test_the_time_of_the_inverse_is_that_of_the_inverse_alone(tmp_path):
    timing = Store(tmp_path).run(TimeInverse(0.01), Keyed(LAYER, LAYER.key))
    assert isinstance(timing, Artifact) and timing.record["seconds"] == INVERSE


def test_an_estimate_is_not_told_as_time_that_has_passed(run):
    found, _ = run(budget=0, rows=8)
    assert found.estimated and found.seconds == pytest.approx(INVERSE + EACH * ROWS)
    assert found.spent == pytest.approx(2 * INVERSE + EACH)  # H^-1 alone, and one row
    whole, _ = run(budget=1e9)
    assert whole.spent >= whole.seconds


def test_a_baseline_can_be_left_out(tmp_path):
    store = Store(tmp_path)
    solution = store.run(SolveLayer(rtn.quantize, GRID, 0.01), Keyed(LAYER, LAYER.key), BITS)
    weights = QuantizedWeights({"one": solution}, {"one": LAYER}, {}, 0.0)
    machine = Machine("cpu", 1, "32-true", None)
    assert Baseline(None, 0, 1).run(store, weights, {"one": 3}, machine) == {}


def test_a_method_that_leaves_its_grid_is_an_error_that_names_the_layer():
    def wrong(given, grid):
        return given.W + 1e-3

    with pytest.raises(ValueError, match=r"layer one: .*not on its grid"):
        SolveLayer(wrong, GRID, 0.01).run(Keyed(LAYER, LAYER.key), BITS)
