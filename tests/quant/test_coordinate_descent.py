"""Coordinate descent against trying every value of every weight in turn."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.coordinate_descent import descend
from quant.grid import fit
from quant.problem import LayerProblem

GRIDS = {
    "row": {"granularity": "channel", "symmetric": False, "search": "minmax"},
    "tensor": {"granularity": "tensor", "symmetric": True, "search": "mse"},
    "columns": {"granularity": "group", "symmetric": False, "search": "mse", "group_size": 4},
}


def settings(kind, bits):
    """One bit is never symmetric."""
    return {**GRIDS[kind], "symmetric": GRIDS[kind]["symmetric"] and bits > 1}


def problem(g, r, c, seed):
    return LayerProblem(
        reference.random_weights(g, r, c, seed), reference.random_hessian(g, c, seed)
    )


def scattered(grid, W, seed):
    """A bad start on the grid: rounding of W plus noise of its own size."""
    draw = torch.Generator().manual_seed(seed)
    return grid.round(W + torch.randn(W.shape, generator=draw, dtype=W.dtype))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("sweeps", [1, 3])
@pytest.mark.parametrize("rows", [1, 3])
def test_descent_equals_trying_every_value_of_every_weight(rows, sweeps, bits, kind):
    layer = problem(2, rows, 10, seed=bits)
    grid = fit(layer.W, bits, **settings(kind, bits))
    start = scattered(grid, layer.W, seed=1)
    expected = reference.each_row(reference.descend, layer.W, layer.H, grid, start, sweeps)
    for block in (1, 3, 10, 128):
        actual = descend(layer, grid, start, sweeps, block)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_the_loss_of_no_row_ever_grows_and_the_result_is_on_the_grid(bits, kind):
    for seed in range(4):
        layer = problem(2, 4, 12, seed=100 * bits + seed)
        grid = fit(layer.W, bits, **settings(kind, bits))
        Q = scattered(grid, layer.W, seed) if seed % 2 else grid.round(layer.W)
        for _ in range(3):
            before, Q = layer.loss(Q), descend(layer, grid, Q, 1)
            assert (layer.loss(Q) <= before * (1 + 1e-12)).all()
            assert torch.equal(grid.round(Q), Q)


def test_it_stops_at_a_fixed_point_and_stays_there():
    layer = problem(2, 3, 10, seed=0)
    grid = fit(layer.W, 2, **GRIDS["row"])
    settled = descend(layer, grid, grid.round(layer.W), 200)
    assert torch.equal(descend(layer, grid, settled, 1), settled)
    s, z = reference.spread(grid, 2, 3, 10)
    for a in range(2):  # no single weight can be moved to any gain
        for i in range(3):
            least = reference.loss(settled[a, i], layer.W[a, i], layer.H[a])
            for j in range(10):
                for code in range(4):
                    moved = settled[a, i].clone()
                    moved[j] = (code - z[a, i, j]) * s[a, i, j]
                    assert reference.loss(moved, layer.W[a, i], layer.H[a]) >= least - 1e-12


def test_no_sweeps_return_the_start_unchanged_and_the_start_is_never_written_to():
    layer = problem(1, 3, 8, seed=0)
    grid = fit(layer.W, 2, **GRIDS["row"])
    start = scattered(grid, layer.W, seed=0)
    kept = start.clone()
    assert torch.equal(descend(layer, grid, start, 0), kept)
    assert not torch.equal(descend(layer, grid, start, 2), kept)
    assert torch.equal(start, kept)


def test_a_negative_number_of_sweeps_is_refused():
    layer = problem(1, 3, 8, seed=0)
    grid = fit(layer.W, 2, **GRIDS["row"])
    with pytest.raises(ValueError, match="passes=-1 must be 0 or more"):
        descend(layer, grid, layer.W, -1)
