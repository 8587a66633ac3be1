"""What a method returns is checked against its grid, and named where it is not on it."""

import pytest
import torch

from quant.grid import Grid, fit
from quant.on_grid import check_on_grid

W = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))


def grid(bits=4, granularity="channel", symmetric=False):
    return fit(W, bits, granularity=granularity, symmetric=symmetric, search="mse", group_size=8)


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_values_of_the_grid_pass(granularity, bits):
    for symmetric in (False, True)[: 1 if bits == 1 else 2]:  # one bit is never symmetric
        g = grid(bits, granularity, symmetric)
        check_on_grid(g.round(W), g, W.shape, "layer a")
        check_on_grid(g.round(W).double(), g, W.shape, "layer a")
        check_on_grid(g.decode(g.codes(10 * W)), g, W.shape, "layer a")


def changed(Q, index, value):
    Q = Q.clone()
    Q[index] = value
    return Q


WRONG = {
    "W + 1e-3": (lambda g: W + 1e-3, "layer a: .* not on its grid of 16 values"),
    "one value": (
        lambda g: changed(g.round(W), (1, 2, 3), 0.5 * g.scale[1, 2, 0]),
        r"1 of 120 values .* the first one at \[1, 2, 3\]",
    ),
    "out of range": (
        lambda g: changed(g.round(W), (0, 0, 0), 40 * g.scale[0, 0, 0]),
        r"1 of 120 .* at \[0, 0, 0\]",
    ),
    "NaN": (lambda g: changed(g.round(W), (0, 1, 2), torch.nan), "layer a: .* 1 values .* NaN"),
    "shape": (lambda g: g.round(W)[0], r"returned \[3, 20\] instead of a tensor Q \[2, 3, 20\]"),
    "codes and grid": (lambda g: (g.codes(W), g), "returned tuple instead"),
    "of a NaN step": (lambda g: g.round(W), "not on its grid"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_an_error_that_names_the_layer(name):
    result, reason = WRONG[name]
    g = grid()
    if name == "of a NaN step":
        Q, g = g.round(W), Grid(g.scale * torch.nan, g.zero, g.bits)
    else:
        Q = result(g)
    with pytest.raises(ValueError, match=reason):
        check_on_grid(Q, g, W.shape, "layer a")
