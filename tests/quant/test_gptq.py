"""GPTQ against its textbook definition."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.grid import fit
from quant.methods import gptq
from quant.problem import LayerProblem

GRIDS = {
    "row": {"granularity": "channel", "symmetric": False, "search": "minmax"},
    "tensor": {"granularity": "tensor", "symmetric": True, "search": "mse"},
    "columns": {"granularity": "group", "symmetric": False, "search": "mse", "group_size": 5},
}


def problem(g, r, c, seed):
    return LayerProblem(
        reference.random_weights(g, r, c, seed), reference.random_hessian(g, c, seed)
    )


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("order", ["natural", "diag"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 3])
def test_gptq_equals_sequential_elimination(rows, bits, order, kind):
    layer = problem(2, rows, 13, seed=bits)
    symmetric = GRIDS[kind]["symmetric"] and bits > 1  # one bit is never symmetric
    grid = fit(layer.W, bits, **{**GRIDS[kind], "symmetric": symmetric})
    columns = reference.order(layer.W, layer.H, grid, order)
    expected = reference.each_row(reference.gptq, layer.W, layer.H, grid, columns)
    for block in (1, 4, 12, 13, 128):
        actual = gptq.quantize(layer, grid, order=order, block_size=block)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_the_two_orders_differ():
    layer = problem(1, 4, 16, seed=0)
    grid = fit(layer.W, 2, **GRIDS["row"])
    natural, diag = (gptq.quantize(layer, grid, order=o) for o in ("natural", "diag"))
    assert not torch.equal(natural, diag)


def test_another_order_is_refused_with_the_method_that_has_it():
    layer = problem(1, 2, 4, seed=0)
    grid = fit(layer.W, 2, **GRIDS["row"])
    with pytest.raises(ValueError, match="'sensitivity' must be natural or diag; row_parallel"):
        gptq.quantize(layer, grid, order="sensitivity")


def test_gptq_changes_neither_weights_nor_hessian_and_stays_on_the_grid():
    layer = problem(2, 3, 16, seed=2)
    W, H = layer.W.clone(), layer.H.clone()
    grid = fit(layer.W, 2, **GRIDS["columns"])
    Q = gptq.quantize(layer, grid, order="diag", block_size=5)
    assert torch.equal(layer.W, W) and torch.equal(layer.H, H)
    assert torch.equal(grid.round(Q), Q)
