"""Column orders against their formulas."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.grid import fit
from quant.order import ORDERS, columns
from quant.problem import LayerProblem

ROW = {"granularity": "channel", "symmetric": False, "search": "minmax"}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("width", [None, 4])
def test_every_order_equals_its_formula(name, width):
    W, H = reference.random_weights(3, 4, 11, seed=2), reference.random_hessian(3, 11, seed=2)
    options = ROW if width is None else {**ROW, "granularity": "group", "group_size": width}
    grid = fit(W, 3, **options)
    actual = columns(LayerProblem(W, H), grid, name)
    assert torch.equal(actual, reference.order(W, H, grid, name))


def test_the_orders_are_all_different_permutations():
    W, H = reference.random_weights(1, 4, 24, seed=2), reference.random_hessian(1, 24, seed=2)
    orders = [columns(LayerProblem(W, H), fit(W, 3, **ROW), name)[0] for name in ORDERS]
    assert all(sorted(order.tolist()) == list(range(24)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(ORDERS)


@pytest.mark.parametrize("name", ORDERS)
def test_equal_scores_stay_in_their_natural_order(name):
    c = 40
    W = torch.full((2, 3, c), 0.3, dtype=torch.float64)
    W[:, :, 20:] = -1.1
    H = torch.eye(c, dtype=torch.float64).repeat(2, 1, 1)
    H[:, 30:, 30:] *= 2
    grid = fit(W, 2, **ROW)
    actual = columns(LayerProblem(W, H), grid, name)
    assert torch.equal(actual, reference.order(W, H, grid, name))
    if name == "diag":
        assert actual[0].tolist() == [*range(30, 40), *range(30)]


def test_an_unknown_order_is_refused_with_the_known_ones():
    W, H = reference.random_weights(1, 2, 3, seed=0), reference.random_hessian(1, 3, seed=0)
    with pytest.raises(ValueError, match="order='size' must be one of natural, diag, sensitivity"):
        columns(LayerProblem(W, H), fit(W, 2, **ROW), "size")
