"""Optimal Brain Quantization against trying and refitting every choice."""

from __future__ import annotations

import pytest
import reference
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quant.grid import Grid, fit
from quant.methods import obq
from quant.problem import LayerProblem

GRIDS = {
    "row": {"granularity": "channel", "symmetric": False, "search": "minmax"},
    "row, mse": {"granularity": "channel", "symmetric": True, "search": "mse"},
    "tensor, mse": {"granularity": "tensor", "symmetric": False, "search": "mse"},
    "columns": {"granularity": "group", "symmetric": False, "search": "minmax", "group_size": 3},
    "columns, mse": {"granularity": "group", "symmetric": False, "search": "mse", "group_size": 4},
}


def problem(g, r, c, seed):
    return LayerProblem(
        reference.random_weights(g, r, c, seed), reference.random_hessian(g, c, seed)
    )


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_obq_equals_trying_and_refitting_every_choice(bits, kind, seed):
    layer = problem(2, 2, 9, seed)
    symmetric = GRIDS[kind]["symmetric"] and bits > 1  # one bit is never symmetric
    grid = fit(layer.W, bits, **{**GRIDS[kind], "symmetric": symmetric})
    expected = reference.each_row(reference.obq, layer.W, layer.H, grid)
    close(obq.quantize(layer, grid), expected)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_obq_fixes_clipped_weights_first_the_largest_error_first(share):
    layer = problem(2, 3, 9, seed=7)
    full = fit(layer.W, 3, granularity="channel", symmetric=False, search="minmax")
    grid = Grid(full.scale * share, full.zero, 3)  # many weights lie outside
    assert ((layer.W - grid.round(layer.W)).abs() > 0.6 * grid.scale).sum() > 5
    expected = reference.each_row(reference.obq, layer.W, layer.H, grid)
    close(obq.quantize(layer, grid), expected)


def test_clipping_is_judged_by_each_weights_own_step():
    layer = problem(1, 3, 10, seed=3)
    factor = torch.tensor([0.2, 3.0]).double()  # a fine, clipping half and a coarse one
    full = fit(layer.W, 3, granularity="group", symmetric=False, search="minmax", group_size=5)
    grid = Grid(full.scale * factor, full.zero, 3, 5)
    expected = reference.each_row(reference.obq, layer.W, layer.H, grid)
    close(obq.quantize(layer, grid), expected)


def test_obq_is_plain_rounding_when_inputs_are_uncorrelated():
    W = reference.random_weights(2, 4, 6, seed=0)
    layer = LayerProblem(W, torch.eye(6, dtype=torch.float64).expand(2, 6, 6))
    grid = fit(W, 3, **GRIDS["row, mse"])
    assert torch.equal(obq.quantize(layer, grid), grid.round(W))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("max_bytes", [1, 2 * 24 * 24 * 8 * 3, 2 * 24 * 24 * 8 * 7])
def test_chunks_of_rows_change_nothing(kind, max_bytes):
    layer = problem(3, 5, 24, seed=5)
    grid = fit(layer.W, 3, **GRIDS[kind])
    together = obq.quantize(layer, grid)
    assert torch.equal(obq.quantize(layer, grid, max_bytes=max_bytes), together)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made while it is active held at one time."""

    def __init__(self):
        super().__init__()
        self.live, self.bytes = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = {
            t.untyped_storage().data_ptr()
            for t in tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        self.live = {k: v for k, v in self.live.items() if not v[0].expired()}
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in inputs:
                storage = t.untyped_storage()
                self.live[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.bytes = max(self.bytes, sum(size for _, size in self.live.values()))
        return result


@pytest.mark.parametrize("rows_at_once", [0, 1, 4, 9])
def test_a_chunk_keeps_to_its_memory_bound_and_uses_it(rows_at_once):
    g, r, c = 2, 5, 32
    layer = problem(g, r, c, seed=1)
    grid = fit(layer.W, 3, **GRIDS["columns"])
    row = 2 * c * c * 8
    Hinv = torch.linalg.inv(layer.H)
    with Peak() as peak:
        obq.greedy(layer.W, Hinv, grid, max_bytes=rows_at_once * row)
    whole = 8 * g * r * c * 4  # Q and the spread grid
    assert peak.bytes <= max(1, rows_at_once) * row + whole
    assert peak.bytes >= max(1, rows_at_once) * row / 2


def test_obq_changes_neither_weights_nor_hessian():
    layer = problem(2, 3, 16, seed=2)
    W, H = layer.W.clone(), layer.H.clone()
    grid = fit(layer.W, 2, **GRIDS["row"])
    Q = obq.quantize(layer, grid)
    assert torch.equal(layer.W, W) and torch.equal(layer.H, H)
    assert torch.equal(grid.round(Q), Q)


def test_obq_beats_gptq_and_rounding_on_correlated_inputs():
    layer = problem(1, 32, 48, seed=4)
    grid = fit(layer.W, 3, **GRIDS["row"])
    obq_loss = layer.loss(obq.quantize(layer, grid)).sum()
    assert obq_loss < 0.7 * layer.loss(grid.round(layer.W)).sum()


def test_the_identity_is_added_to_a_singular_hessian_alone():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(2, 6, 4, generator=draw)  # fewer positions than columns: singular
    X[1] = torch.zeros(6, 4)
    H = X @ X.mT
    H[1] = torch.eye(6) + 0.5  # the second group is fine
    H[0] = H[0] - 1e-3 * torch.eye(6)  # and the first one is not, whatever rounding does
    W = torch.randn(2, 3, 6, generator=draw)
    grid = fit(W, 3, granularity="channel", symmetric=False, search="minmax")
    with pytest.raises(ValueError, match="Cholesky failed"):
        obq.quantize(LayerProblem(W, H), grid)
    found = obq.quantize(LayerProblem(W, H), grid, add_identity=True)
    added = H + torch.stack([torch.eye(6), torch.zeros(6, 6)])
    assert torch.equal(found, obq.quantize(LayerProblem(W, added), grid))
