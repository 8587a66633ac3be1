"""Block elimination holds for any way to solve a block."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.elimination import eliminate, in_order
from quant.grid import fit
from quant.problem import LayerProblem

ROW = {"granularity": "channel", "symmetric": False, "search": "minmax"}
COLUMNS = {"granularity": "group", "symmetric": False, "search": "minmax", "group_size": 3}


def problem(g, r, c, seed):
    return LayerProblem(
        reference.random_weights(g, r, c, seed), reference.random_hessian(g, c, seed)
    )


def shuffled(g, c, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(c, generator=draw) for _ in range(g)])


@pytest.mark.parametrize("block", [1, 3, 4, 11])
def test_a_solver_sees_the_weights_refitted_to_all_earlier_blocks(block):
    layer = problem(2, 2, 11, seed=0)
    grid = fit(layer.W, 2, **ROW)
    order = shuffled(2, 11, seed=1)
    seen = []

    def solve(W, U, grid):
        seen.append(W.clone())
        return grid.round(W) + 0.125  # any values at all, on the grid or not

    Q = eliminate(layer, grid, order, block, solve)
    for a in range(2):
        for i in range(2):
            for k, start in enumerate(range(0, 11, block)):
                held = {int(j): Q[a, i, j] for j in order[a, :start]}
                w = reference.refit(layer.W[a, i], layer.H[a], held)
                now = w[order[a, start : start + block]]
                torch.testing.assert_close(seen[k][a, i], now, rtol=0, atol=1e-9)


def test_a_solver_sees_the_conditional_inverse_hessian_of_its_block():
    layer = problem(2, 2, 10, seed=3)
    grid = fit(layer.W, 2, **ROW)
    order = shuffled(2, 10, seed=2)
    seen = []

    def solve(W, U, grid):
        seen.append(U.mT @ U)
        return grid.round(W)

    eliminate(layer, grid, order, 4, solve)
    for a in range(2):
        for k, start in enumerate(range(0, 10, 4)):
            free = order[a, start:]
            conditional = torch.linalg.inv(layer.H[a][free][:, free])[:4, :4]
            torch.testing.assert_close(seen[k][a], conditional, rtol=0, atol=1e-9)


def test_a_solver_gets_the_step_sizes_of_its_own_columns():
    layer = problem(2, 3, 10, seed=4)
    grid = fit(layer.W, 2, **COLUMNS)
    order = shuffled(2, 10, seed=4)
    s, z = reference.spread(grid, 2, 3, 10)
    start = 0

    def solve(W, U, grid):
        nonlocal start
        scale, zero = grid.spread(W.shape[2])
        for a in range(2):
            own = order[a, start : start + 4]
            assert torch.equal(scale[a], s[a][:, own]) and torch.equal(zero[a], z[a][:, own])
        start += 4
        return grid.round(W)

    eliminate(layer, grid, order, 4, solve)
    assert start == 12


@pytest.mark.parametrize("grid_options", [ROW, COLUMNS])
@pytest.mark.parametrize("rows", [1, 4])
def test_left_to_right_within_any_block_is_sequential_elimination_in_any_order(rows, grid_options):
    layer = problem(3, rows, 12, seed=5)
    grid = fit(layer.W, 3, **grid_options)
    order = shuffled(3, 12, seed=6)
    expected = reference.each_row(reference.gptq, layer.W, layer.H, grid, order)
    for block in (1, 5, 12):
        actual = eliminate(layer, grid, order, block, in_order)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_an_empty_block_is_refused():
    layer = problem(1, 2, 4, seed=0)
    with pytest.raises(ValueError, match="block_size=0 must be at least 1"):
        eliminate(layer, fit(layer.W, 2, **ROW), torch.arange(4)[None], 0, in_order)
