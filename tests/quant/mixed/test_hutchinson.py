"""Traces of Hessians against the dense Hessian."""

import pytest
import torch

from quant.mixed.hutchinson import traces


def problem():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, generator=draw, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, generator=draw, dtype=torch.float64, requires_grad=True)
    c = torch.randn(2, generator=draw, dtype=torch.float64, requires_grad=True)
    M = torch.randn(10, 10, generator=draw, dtype=torch.float64)

    def loss(a, b, c):
        z = torch.cat([a.flatten(), b])
        return (M @ z).square().sum() + z.pow(4).sum() + c.sum()  # c has no curvature

    H = torch.autograd.functional.hessian(
        lambda z: loss(z[:6].reshape(3, 2), z[6:], c), torch.cat([a.flatten(), b]).detach()
    )
    return loss(a, b, c), (a, b, c), H


def test_many_draws_come_to_the_traces_of_the_dense_hessian():
    loss, tensors, H = problem()
    found = traces(loss, tensors, 4000, torch.Generator().manual_seed(1))
    assert float(found[0]) == pytest.approx(float(H[:6, :6].trace()), rel=0.03)
    assert float(found[1]) == pytest.approx(float(H[6:, 6:].trace()), rel=0.03)
    assert float(found[2]) == 0


def test_one_draw_is_the_product_with_signs_on_one_tensor_at_a_time():
    loss, tensors, H = problem()
    found = traces(loss, tensors, 1, torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    u, v = (
        (torch.randint(0, 2, shape, generator=draw, dtype=torch.int8) * 2 - 1).flatten().double()
        for shape in ((3, 2), (4,))
    )
    assert float(found[0]) == pytest.approx(float(u @ H[:6, :6] @ u), rel=1e-9)
    assert float(found[1]) == pytest.approx(float(v @ H[6:, 6:] @ v), rel=1e-9)


def test_no_trace_of_a_convex_loss_is_negative():
    loss, tensors, _ = problem()
    for seed in range(20):
        assert (traces(loss, tensors, 1, torch.Generator().manual_seed(seed)) >= 0).all()


def test_no_draws_are_refused():
    loss, tensors, _ = problem()
    with pytest.raises(ValueError, match="draws=0"):
        traces(loss, tensors, 0, torch.Generator())
