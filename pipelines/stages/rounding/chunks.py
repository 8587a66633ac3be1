"""Chunks of a training step in parallel threads, on a CPU.

The tensors of a chunk are so small that threads that split every operation wait for each other as
long as they work. Here every thread computes whole chunks, with its own copy of both networks on
shared parameters. Gradients are accumulated in the order of the chunks, as in a sequential loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipelines.machine.threads import at_most
from pipelines.stages.rounding.loss import Task

Chunk = tuple[Tensor, Tensor]  # images, and their indices
Result = TypeVar("Result")


class ParallelChunks:
    """Computes `count` chunks at a time, each on a share of the cores.

    Attributes:
        tasks: one task per thread: the original, and copies on the same parameters.
    """

    def __init__(self, task: Task, count: int) -> None:
        """`task`: the task to train; `requires_grad` of all parameters must be final."""
        self.tasks = [task]
        for _ in range(count - 1):
            networks = shared_copy(task.reference), shared_copy(task.quantized)
            self.tasks.append(replace(task, reference=networks[0], quantized=networks[1]))
        self.free: SimpleQueue[Task] = SimpleQueue()
        for each in self.tasks:
            self.free.put(each)

    def each(
        self, compute: Callable[[Task, Chunk], Result], chunks: Iterable[Chunk]
    ) -> Iterator[Result]:
        """compute(task, chunk) for every chunk, in order; reads one chunk ahead of the threads."""
        if len(self.tasks) == 1:
            yield from (compute(self.tasks[0], chunk) for chunk in chunks)
            return

        def run(chunk: Chunk) -> Result:
            task = self.free.get()
            try:
                return compute(task, chunk)
            finally:
                self.free.put(task)

        pending: deque[Future[Result]] = deque()
        share = at_most(torch.get_num_threads() // len(self.tasks))
        with share, ThreadPoolExecutor(len(self.tasks)) as pool:
            for chunk in chunks:
                pending.append(pool.submit(run, chunk))
                if len(pending) > len(self.tasks):
                    yield pending.popleft().result()
            yield from (future.result() for future in pending)

    def backward(
        self, loss: Callable[[Task, Chunk], Tensor], chunks: Iterable[Chunk]
    ) -> list[Tensor]:
        """Losses of the chunks; accumulates their gradients in the parameters."""

        def gradients(task: Task, chunk: Chunk) -> tuple[Tensor, Sequence[Tensor | None]]:
            with torch.enable_grad():
                value = loss(task, chunk)
            parameters = list(trainable(task.quantized).values())
            return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)

        parameters, losses = trainable(self.tasks[0].quantized).values(), []
        for value, chunk_gradients in self.each(gradients, chunks):
            losses.append(value)
            for parameter, gradient in zip(parameters, chunk_gradients, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad += gradient
                elif gradient is not None:
                    parameter.grad = gradient
        return losses


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with `requires_grad`, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def shared_copy(network: nn.Module) -> nn.Module:
    """A copy whose parameters share memory with the original's."""
    copy = deepcopy(network)
    for mine, theirs in zip(copy.parameters(), network.parameters(), strict=True):
        mine.data, mine.grad = theirs.data, None
    return copy
