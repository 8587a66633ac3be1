"""Chunks side by side: the gradients of one after the other, on copies that share parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipelines.stages.rounding.chunks import ParallelChunks, sharing, trained
from pipelines.stages.rounding.loss import distances
from tests.pipelines.stages.rounding.test_training import Images, softened, training

SCORES = torch.rand(7, 2, generator=torch.Generator().manual_seed(2)) + 0.5


def task_of_seven():
    """Seven images, a rounding on the convolution, and biases that are trained."""
    module, _ = training(7.0, SCORES)
    x = torch.randn(7, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    softened(module.quantized[0])
    module.quantized[3].weight.requires_grad_(False)
    return replace(module.task, data=Images(x), images=7), x


def loss(task, chunk):
    outputs, layers = distances(task, *chunk)
    return (outputs + 0.3 * layers) * len(chunk[0])


def chunks_of(x):
    return list(zip(x.split(2), torch.arange(7).split(2), strict=True))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_gradients_are_those_of_chunks_one_after_the_other_bit_for_bit(count):
    task, x = task_of_seven()
    for parameter in trained(task.quantized).values():
        parameter.grad = torch.full_like(parameter, 0.25)  # of the regulariser, say
    expected = []
    for chunk in chunks_of(x):
        value = loss(task, chunk)
        value.backward()
        expected.append(value.item())
    wanted = [p.grad.clone() for p in trained(task.quantized).values()]
    for parameter in trained(task.quantized).values():
        parameter.grad = torch.full_like(parameter, 0.25)
    found = ParallelChunks(task, count).backward(loss, chunks_of(x))
    assert [value.item() for value in found] == expected
    gradients = [p.grad for p in trained(task.quantized).values()]
    pairs = list(zip(gradients, wanted, strict=True))
    assert len(pairs) == 4 and all(torch.equal(*pair) for pair in pairs)
    assert task.quantized[3].weight.grad is None


def test_copies_follow_the_parameters_and_keep_gradients_and_taps_to_themselves():
    task, x = task_of_seven()
    copy = sharing(task.quantized)
    with torch.no_grad():
        for parameter in trained(task.quantized).values():
            parameter.add_(0.1)
        assert torch.equal(copy(x), task.quantized(x))
    copy(x).sum().backward()
    assert all(p.grad is None for p in task.quantized.parameters())
    assert [p.requires_grad for p in copy.parameters()] == [
        p.requires_grad for p in task.quantized.parameters()
    ]
    side = ParallelChunks(task, 3)
    assert len({id(each.quantized) for each in side.tasks}) == 3
    assert len({id(each.reference) for each in side.tasks}) == 3


def test_an_error_in_a_chunk_is_told_and_the_threads_are_as_before():
    task, x = task_of_seven()
    before = torch.get_num_threads()
    side = ParallelChunks(task, 2)

    def fails(task, chunk):
        raise ValueError(f"image {int(chunk[1][0])} is broken")

    with pytest.raises(ValueError, match="image 0 is broken"):
        side.backward(fails, chunks_of(x))
    assert torch.get_num_threads() == before
    assert len(side.backward(loss, chunks_of(x))) == 4, "its copies can be used again"


def test_of_a_shared_layer_the_copy_shares_too():
    layer = nn.Linear(2, 2)
    copy = sharing(nn.Sequential(layer, nn.ReLU(), layer))
    assert copy[0] is copy[2] and copy[0].weight.data_ptr() == layer.weight.data_ptr()


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 3)])
def test_chunks_are_read_as_they_are_needed(count, most):
    task, x = task_of_seven()
    read, done = [], []

    def chunks():
        for chunk in chunks_of(x):
            read.append(chunk)
            yield chunk

    for value in ParallelChunks(task, count).each(loss, chunks()):
        done.append(value)
        assert len(read) - len(done) < most
    assert len(done) == 4
