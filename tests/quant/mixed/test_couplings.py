"""Couplings of changes against dense Hessians, and what they predict."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant.mixed.couplings import CouplingSum, curvature


def kl(reference, outputs):
    p, q = reference.log_softmax(1), outputs.log_softmax(1)
    return F.kl_div(q, p, log_target=True, reduction="none").sum(1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_curvature_of_kl_is_the_fisher_matrix_of_the_softmax():
    f, u = draw(5, 7), draw(5, 7, seed=1)
    p = f.softmax(1)
    wanted = torch.stack(
        [(torch.diag(q) - torch.outer(q, q)) @ v for q, v in zip(p, u, strict=True)]
    )
    assert torch.allclose(curvature(kl, f)(u), wanted, rtol=0, atol=1e-12)


def test_the_curvature_of_several_outputs_is_the_dense_hessian():
    f = (draw(1, 2, 3), draw(1, 4, seed=1))

    def apart(reference, outputs):
        a, b = (x - y for x, y in zip(outputs, reference, strict=True))
        return a.square().sum((1, 2)) * (1 + b[:, 0]) + b.square().sum(1) * 3 + b[:, 1] * a[:, 0, 0]

    def whole(z):
        return apart(f, (z[:6].reshape(1, 2, 3), z[6:].reshape(1, 4)))[0]

    at = torch.cat([part.flatten() for part in f])
    H = torch.autograd.functional.hessian(whole, at)
    u = draw(1, 10, seed=2)
    assert torch.allclose(curvature(apart, f)(u)[0], H @ u[0], rtol=0, atol=1e-12)


def test_an_output_that_does_not_count_has_no_curvature():
    f = (draw(2, 3), draw(2, 4, seed=1))
    product = curvature(lambda a, b: (b[0] - a[0]).square().sum(1), f)
    u = draw(2, 7, seed=2)
    wanted = torch.cat([2 * u[:, :3], torch.zeros(2, 4).double()], 1)
    assert torch.allclose(product(u), wanted, rtol=0, atol=1e-12)


def measured(batches):
    """Couplings of m changes from a plain loop over images, changes and classes."""
    m = batches[0][1].shape[0]
    A, alone, n = torch.zeros(m, m).double(), torch.zeros(m).double(), 0
    for f, U in batches:
        for x in range(len(f)):
            p = f[x].softmax(0)
            for i in range(m):
                for j in range(m):
                    mean = sum(p[k] * U[j, x, k] for k in range(len(p)))
                    A[i, j] += sum(p[k] * U[i, x, k] * (U[j, x, k] - mean) for k in range(len(p)))
                alone[i] += kl(f[x : x + 1], f[x : x + 1] + U[i, x])[0]
            n += 1
    return A / n, alone / n


def summed(batches):
    total = CouplingSum(batches[0][1].shape[0])
    for f, U in batches:
        product = curvature(kl, f)
        total.add(U, torch.stack([product(u) for u in U]), torch.stack([kl(f, f + u) for u in U]))
    return total


def test_an_output_that_counts_linearly_has_no_curvature():
    """Its gradient is a constant, which autograd cannot differentiate again."""
    f = (draw(2, 3), draw(2, 4, seed=1))

    def half_linear(reference, outputs):
        return (outputs[0] - reference[0]).square().sum(1) + outputs[1].sum(1)

    u = draw(2, 7, seed=2)
    wanted = torch.cat([2 * u[:, :3], torch.zeros(2, 4, dtype=torch.float64)], 1)
    assert torch.allclose(curvature(half_linear, f)(u), wanted, rtol=0, atol=1e-12)


def test_all_pairs_equal_a_plain_loop_and_form_a_gram_matrix():
    batches = [(draw(3, 5, seed=s), draw(4, 3, 5, seed=10 + s)) for s in range(2)]
    total = summed(batches)
    A, alone = measured(batches)
    assert torch.allclose(total.couplings(), A, rtol=0, atol=1e-9)
    assert torch.allclose(total.alone(), alone, rtol=0, atol=1e-9)
    assert torch.equal(total.couplings(), total.couplings().T)
    assert float(torch.linalg.eigvalsh(total.couplings()).min()) > -1e-12


def test_half_the_sum_predicts_what_small_changes_cost_together():
    f, U = draw(6, 5), 1e-4 * draw(3, 6, 5, seed=1)
    predicted = float(summed([(f, U)]).couplings().sum() / 2)
    assert predicted == pytest.approx(float(kl(f, f + U.sum(0)).mean()), rel=1e-3)


def test_without_images_nothing_is_known():
    with pytest.raises(ValueError, match="no image"):
        CouplingSum(2).couplings()


def test_single_precision_and_inference_networks_are_fine():
    network = nn.Linear(4, 3)
    with torch.no_grad():
        f = network(draw(2, 4).float())
    assert curvature(kl, f)(torch.ones(2, 3)).shape == (2, 3)
