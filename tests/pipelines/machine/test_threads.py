"""How many threads the solve of a layer gets."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pipelines.machine.threads import at_most, solving
from pipelines.stages.solving.solve import LayerInput, SolveLayer
from pipelines.store.artifacts import Keyed
from quant.grid import fit
from quant.layers import Layer
from quant.problem import LayerProblem


@pytest.fixture
def eight():
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("shape", "threads"),
    [((64, 64, 3, 3), 1), ((1024, 2047), 1), ((1024, 2048), 2), ((2048, 2048, 3, 3), 8)],
)
def test_a_layer_gets_a_thread_for_every_million_weights(eight, shape, threads):
    with solving(Layer("one", "one.weight", shape, 1)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 8


def test_there_are_never_more_threads_than_before_and_as_many_after_an_error(eight):
    with at_most(100):
        assert torch.get_num_threads() == 8
    with pytest.raises(ValueError, match="no"), at_most(2):
        raise ValueError("no")
    assert torch.get_num_threads() == 8


def test_every_method_is_solved_and_timed_with_the_threads_that_its_layer_is_worth(eight):
    seen = []

    def method(problem, grid):
        seen.append(torch.get_num_threads())
        return grid.round(problem.W)

    W = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    one = LayerInput(
        Layer("one", "one.weight", (3, 4), 1), lambda: LayerProblem(W, torch.eye(4)[None]), "one"
    )
    fit_grid = partial(fit, granularity="channel", symmetric=False, search="minmax")
    SolveLayer(method, fit_grid, 0.01).run(Keyed(one, one.key), Keyed(4, "4"))
    assert seen == [1]
