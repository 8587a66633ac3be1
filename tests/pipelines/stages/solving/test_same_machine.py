"""Times that the store has of another machine are taken again; codes stay."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from pipelines.machine import stopwatch
from pipelines.machine.machine import Machine
from pipelines.machine.stopwatch import Place
from pipelines.stages.solving.baseline import Baseline
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.same_machine import comparable
from pipelines.stages.solving.solve import LayerInput, SolveLayer
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from quant.grid import fit
from quant.layers import Layer
from quant.methods import obq, rtn
from quant.problem import LayerProblem

GRID = functools.partial(
    fit,
    granularity="channel",
    symmetric=False,
    search="minmax",
    group_size=128,
    norm=2.4,
    shrink=80,
)
METHOD, OBQ = SolveLayer(rtn.quantize, GRID, 0.01), SolveLayer(obq.quantize, GRID, 0.01)
MACHINE = Machine("cpu", 1, "32-true", None)


def layer(name, seed):
    def problem():
        draw = torch.Generator().manual_seed(seed)
        X = torch.randn(1, 6, 50, generator=draw)
        return LayerProblem(torch.randn(1, 9, 6, generator=draw), X @ X.mT / 25)

    return LayerInput(Layer(name, f"{name}.weight", (9, 6), 1), problem, name)


LAYERS = {name: layer(name, seed) for seed, name in enumerate(("one", "two"))}


@pytest.fixture
def on(monkeypatch):
    """on(host=..., threads=...): from now on this is another machine."""
    here = Place.here.__func__

    def change(**other):
        monkeypatch.setattr(
            stopwatch.Place, "here", classmethod(lambda cls: replace(here(cls), **other))
        )

    return change


@pytest.fixture
def run(tmp_path):
    """run(): solve both layers and time them, or take it from the store."""

    def run(names=tuple(LAYERS), budget=1e9):
        store = Store(tmp_path)
        bits = dict.fromkeys(names, 3)
        inputs = {name: LAYERS[name] for name in names}
        solved = {n: store.run(METHOD, Keyed(x, x.key), Keyed(3, "3")) for n, x in inputs.items()}
        weights = QuantizedWeights(solved, inputs, {}, 0.0)
        baseline = Baseline(OBQ, budget, 4).run(store, weights, bits, MACHINE)
        times = comparable(store, OBQ, METHOD, weights, bits, baseline, MACHINE)
        return times, weights, baseline

    return run


def test_times_of_one_machine_stay_whatever_machine_reads_them(run, on):
    first, weights, baseline = run()
    on(host="elsewhere")
    again, _, _ = run()
    assert first.again == again.again == ()
    assert again.machine == first.machine and again.machine[0] != "elsewhere"
    assert (
        again.solves
        == first.solves
        == {n: s.record["seconds"] for n, s in weights.solutions.items()}
    )
    assert dict(again.baseline)["one"].seconds == baseline["one"].seconds


@pytest.mark.parametrize("budget", [1e9, 0])
@pytest.mark.parametrize("other", [{"host": "another"}, {"cpu": "another"}, {"kernels": "torch 3"}])
def test_times_of_two_machines_are_taken_again_and_the_losses_stay(run, on, other, budget):
    alone, _, _ = run(("one",), budget)
    on(**other)
    both, weights, baseline = run(budget=budget)
    assert both.again == ("one",), "the other layer was solved and timed here"
    assert both.machine != alone.machine and both.machine == Place.here().machine
    found = both.baseline["one"]
    assert {place.machine for place in found.places} == {both.machine}
    assert found.rows == baseline["one"].rows and found.estimated == baseline["one"].estimated
    assert torch.equal(found.loss, alone.baseline["one"].loss)
    assert weights.solutions["one"].cached
    stored, _, _ = run(budget=budget)
    assert stored.solves == both.solves, "the new times are kept"


def test_other_threads_are_another_place(run, on, tmp_path):
    for name, given in LAYERS.items():
        Store(tmp_path).run(METHOD, Keyed(given, name), Keyed(3, "3"))
    on(threads=64)
    times, weights, _ = run()
    assert all(solution.cached for solution in weights.solutions.values())
    assert times.again == ("one", "two")


def test_without_a_baseline_nothing_is_timed(tmp_path):
    times = comparable(
        Store(tmp_path), None, METHOD, QuantizedWeights({}, {}, {}, 0.0), {}, {}, MACHINE
    )
    assert times.solves == {} and times.again == ()
