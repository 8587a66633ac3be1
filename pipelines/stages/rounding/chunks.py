"""The chunks of a training step side by side, on a processor.

The tensors of a chunk are small: threads that share each operation among them wait for each other
as long as they work. Here every thread has a chunk of its own, with its own copy of both networks
on the same parameters. Gradients are added up in the order of the chunks, as they are one after
the other.
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

Chunk = tuple[Tensor, Tensor]  # images, and their numbers
Found = TypeVar("Found")


class ParallelChunks:
    """So many chunks at a time, each on its share of the cores.

    Attributes:
        tasks: the given one, and copies on the same parameters; one for each thread.
    """

    def __init__(self, task: Task, count: int) -> None:
        """`task`: as it is trained, each parameter told whether it needs a gradient."""
        self.tasks = [task]
        for _ in range(count - 1):
            networks = sharing(task.reference), sharing(task.quantized)
            self.tasks.append(replace(task, reference=networks[0], quantized=networks[1]))
        self.free: SimpleQueue[Task] = SimpleQueue()
        for each in self.tasks:
            self.free.put(each)

    def each(
        self, work: Callable[[Task, Chunk], Found], chunks: Iterable[Chunk]
    ) -> Iterator[Found]:
        """What `work` makes of every chunk, in their order; one more than threads is in memory."""
        if len(self.tasks) == 1:
            yield from (work(self.tasks[0], chunk) for chunk in chunks)
            return

        def run(chunk: Chunk) -> Found:
            task = self.free.get()
            try:
                return work(task, chunk)
            finally:
                self.free.put(task)

        pending: deque[Future[Found]] = deque()
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
        """Losses of the chunks; their gradients are added to those of the parameters."""

        def gradients(task: Task, chunk: Chunk) -> tuple[Tensor, Sequence[Tensor | None]]:
            with torch.enable_grad():
                value = loss(task, chunk)
            parameters = list(trained(task.quantized).values())
            return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)

        parameters, losses = trained(self.tasks[0].quantized).values(), []
        for value, found in self.each(gradients, chunks):
            losses.append(value)
            for parameter, gradient in zip(parameters, found, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad += gradient
                elif gradient is not None:
                    parameter.grad = gradient
        return losses


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that need a gradient, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def sharing(network: nn.Module) -> nn.Module:
    """A copy whose parameters hold the same memory."""
    copy = deepcopy(network)
    for mine, theirs in zip(copy.parameters(), network.parameters(), strict=True):
        mine.data, mine.grad = theirs.data, None
    return copy
