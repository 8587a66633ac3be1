"""The label-free Hessian against the dense Jacobian."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from quant import label_free
from quant.label_free import attention, diagonals, flat, out_of_place, tapped

BATCH, OUTPUTS = 3, 4


@pytest.fixture
def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(20, OUTPUTS)
        )
        .double()
        .eval()
    )


@pytest.fixture
def images():
    return torch.randn(
        BATCH, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def dense(network, images):
    """diag(J^T J) of the convolution's output, image by image, and of its weight, summed."""
    with torch.no_grad():
        z = network[0](images)
    rest = out_of_place(network)[1:]
    J = [jacobian(lambda t: rest(t)[0], z[i : i + 1].clone()) for i in range(len(z))]
    of_z = torch.cat([j.square().sum(0) for j in J])

    def outputs(w):
        return rest(torch.nn.functional.conv2d(images, w, network[0].bias)).flatten()

    of_w = jacobian(outputs, network[0].weight.detach()).square().sum(0)
    return of_z, of_w


def found(network, images, draws, seed=0, tolerance=0.0):
    with tapped(network, ["0"]) as seen:
        f = flat(network(images))
    tensors = {"z": seen["0"], "w": network[0].weight}
    return diagonals(f, tensors, draws, torch.Generator().manual_seed(seed), tolerance)


def test_it_is_exact_for_each_image_where_there_are_no_more_outputs_than_draws(network, images):
    of_z, _ = dense(network, images)
    result = found(out_of_place(network), images, OUTPUTS)
    torch.testing.assert_close(result["z"].double(), of_z, rtol=1e-6, atol=1e-8)


def test_weights_of_one_image_are_exact_too(network, images):
    _, of_w = dense(network, images[:1])
    result = found(out_of_place(network), images[:1], OUTPUTS)
    torch.testing.assert_close(result["w"].double(), of_w, rtol=1e-6, atol=1e-8)


def test_all_sign_vectors_together_give_the_exact_diagonal(network, images, monkeypatch):
    of_z, of_w = dense(network, images[:1])
    signs = list(itertools.product((-1.0, 1.0), repeat=OUTPUTS))

    def every(f, draws, generator):
        for v in signs:
            yield torch.tensor([v], dtype=f.dtype), 1 / len(signs)

    monkeypatch.setattr(label_free, "probes", every)
    result = found(out_of_place(network), images[:1], OUTPUTS)
    torch.testing.assert_close(result["z"].double(), of_z[:1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(result["w"].double(), of_w, rtol=1e-6, atol=1e-8)


def test_random_signs_converge_to_the_dense_diagonal(network, images):
    copy = out_of_place(network)
    copy.append(nn.Linear(OUTPUTS, 64, dtype=torch.float64))  # more outputs than draws
    with torch.no_grad():
        z = copy[0](images)
    J = [jacobian(lambda t: copy[1:](t)[0], z[i : i + 1]) for i in range(BATCH)]
    wanted = torch.cat([j.square().sum(0) for j in J])
    runs = [found(copy, images, 50, seed)["z"].double() for seed in range(40)]
    error = (torch.stack(runs).mean(0) - wanted).abs().sum() / wanted.sum()
    assert error < 0.05  # 2000 draws
    assert (runs[0] - wanted).abs().sum() / wanted.sum() > error  # 50 are worse


def test_drawing_stops_early_and_the_mean_is_over_what_was_drawn(network, images):
    copy = out_of_place(network)
    copy.append(nn.Linear(OUTPUTS, 64, dtype=torch.float64))
    lax = found(copy, images, 50, tolerance=1e9)  # stops after the second draw
    two = found(copy, images, 2)
    torch.testing.assert_close(lax["z"], two["z"])


def test_the_score_is_the_largest_channel_of_the_mean_over_positions():
    diagonal = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]])  # channels: 2 and 4
    assert attention(diagonal).tolist() == [4.0]
    tokens = diagonal[:, :, 0].transpose(1, 2)  # [1, 2 tokens, 2 channels]
    assert attention(tokens).tolist() == [4.0]
    assert attention(torch.tensor([[1.0, 5.0]])).tolist() == [5.0]


def test_an_activation_that_overwrites_its_input_does_not_hide_it(network, images):
    copy = out_of_place(network)
    with tapped(copy, ["0"]) as seen, torch.no_grad():
        copy(images)
    assert (seen["0"] < 0).any() and network[1].inplace
