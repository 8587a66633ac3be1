"""Layer problems: shapes, damping, dead inputs, and the root of the inverse Hessian."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.problem import LayerProblem, dead_inputs, inverse_root


def problem(g=2, r=3, c=7, seed=0):
    return LayerProblem(
        reference.random_weights(g, r, c, seed), reference.random_hessian(g, c, seed)
    )


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("c", [1, 2, 7, 40])
def test_the_root_is_upper_triangular_and_its_square_is_the_inverse(c):
    H = reference.random_hessian(3, c, seed=c)
    U = inverse_root(H)
    assert torch.equal(U, U.triu())
    close(U.mT @ U, torch.linalg.inv(H))


def test_the_root_of_a_float32_hessian_is_taken_in_float64():
    H = reference.random_hessian(1, 30, seed=0).float()
    U = inverse_root(H)
    assert U.dtype == torch.float64
    close(U.mT @ U, torch.linalg.inv(H.double()))


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_hessian_that_is_not_positive_definite_is_refused_with_the_remedy(group):
    H = reference.random_hessian(3, 5, seed=1)
    H[group] -= 1e3 * torch.eye(5).double()
    with pytest.raises(ValueError, match=r"not positive definite\. Raise the damping"):
        inverse_root(H)


def test_damping_adds_a_share_of_the_mean_diagonal_group_by_group():
    layer = problem()
    damped = layer.prepared(0.25)
    for a in range(2):
        mean = layer.H[a].diagonal().mean()
        close(damped.H[a], layer.H[a] + 0.25 * mean * torch.eye(7).double())
    assert torch.equal(damped.W, layer.W)


def test_a_dead_input_gets_a_diagonal_of_one_and_weights_of_zero_before_damping():
    layer = problem()
    W, H = layer.W.clone(), layer.H.clone()
    H[1, 3] = H[1, :, 3] = 0
    damped = LayerProblem(W, H).prepared(0.01)
    diagonal = H[1].diagonal().clone()
    diagonal[3] = 1
    close(damped.H[1].diagonal(), diagonal + 0.01 * diagonal.mean())
    close(damped.H[0], layer.prepared(0.01).H[0])
    assert (damped.W[1, :, 3] == 0).all()
    rest = [0, 1, 2, 4, 5, 6]
    assert torch.equal(damped.W[1][:, rest], W[1][:, rest]) and torch.equal(damped.W[0], W[0])
    inverse_root(damped.H)


def test_an_input_that_is_zero_but_for_rounding_is_dead_and_a_weak_one_is_not():
    layer = problem()
    H = layer.H.clone()
    H[0, 2] *= 1e-22
    H[0, :, 2] *= 1e-22
    H[0, 4] *= 1e-9  # an amplitude of 1e-9, that of its Hessian 1e-18
    H[0, :, 4] *= 1e-9
    assert dead_inputs(H).nonzero().tolist() == [[0, 2]]
    damped = LayerProblem(layer.W, H).prepared(0)
    rest = [0, 1, 3, 4, 5, 6]
    assert (damped.W[0, :, 2] == 0).all() and torch.equal(damped.W[0][:, rest], layer.W[0][:, rest])
    assert damped.H[0, 2].tolist() == damped.H[0, :, 2].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert torch.equal(damped.H[0][rest][:, rest], H[0][rest][:, rest])
    assert inverse_root(damped.H, torch.float32).isfinite().all()


def test_a_layer_without_any_input_can_be_prepared():
    damped = LayerProblem(torch.ones(1, 2, 3), torch.zeros(1, 3, 3)).prepared(0.01)
    close(damped.H, 1.01 * torch.eye(3)[None])
    assert (damped.W == 0).all()


def test_preparing_changes_neither_weights_nor_hessian():
    layer = problem()
    layer.H[0, 2] = layer.H[0, :, 2] = 0
    W, H = layer.W.clone(), layer.H.clone()
    layer.prepared(0.1)
    assert torch.equal(layer.W, W) and torch.equal(layer.H, H)


@pytest.mark.parametrize("damping", [1, -0.1, 1.5, float("nan")])
def test_damping_outside_zero_to_one_is_refused(damping):
    with pytest.raises(ValueError, match=r"damping=.* must lie in \[0, 1\).*0.01 is usual"):
        problem().prepared(damping)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_hessian_that_is_not_finite_is_refused_with_the_remedy(value):
    layer = problem()
    layer.H[1, 2, 2] = value
    with pytest.raises(ValueError, match=r"NaN or infinite.*precision=32-true"):
        layer.prepared(0.01)


def test_the_loss_is_that_of_the_outputs_of_every_row():
    X = torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(0)).double()
    W = reference.random_weights(2, 3, 7, seed=0)
    Q = W.round()
    layer = LayerProblem(W, 2 / 50 * X @ X.mT)
    expected = 2 * ((W - Q) @ X).square().mean(2)
    close(layer.loss(Q), expected)
    loss = LayerProblem(W.float(), layer.H).loss(Q.float())
    assert loss.dtype == torch.float64


def test_permuting_moves_weights_rows_and_columns_of_the_hessian_together():
    layer = problem()
    order = torch.tensor([[3, 0, 6, 1, 2, 5, 4], [6, 5, 4, 3, 2, 1, 0]])
    permuted = layer.permuted(order)
    for a in range(2):
        assert torch.equal(permuted.W[a], layer.W[a][:, order[a]])
        assert torch.equal(permuted.H[a], layer.H[a][order[a]][:, order[a]])


def test_taking_rows_keeps_the_hessian():
    layer = problem()
    taken = layer.take_rows(torch.tensor([2, 0]))
    assert torch.equal(taken.W, layer.W[:, [2, 0]]) and torch.equal(taken.H, layer.H)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"W is \[3, 4\] but must be \[groups, rows, columns\]"):
        LayerProblem(torch.zeros(3, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"H must be \[2, 4, 4\]. Was H collected from another"):
        LayerProblem(torch.zeros(2, 3, 4), torch.zeros(1, 4, 4))
