"""Communication between the processes of a run, which all run the same chain on the same inputs.

Work is divided by batches: rank r of N gets batches r, r + N, ... of those that a single process
would see. No batch is seen twice, and results per batch do not depend on N. Sums over batches are
reduced once, at the end; there are no collective operations inside loops, so ranks may have
different numbers of batches.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from pipelines.machine.launch import ProcessRank

T = TypeVar("T")
Name = TypeVar("Name")
TIMEOUT = timedelta(days=30)  # rank 0 may work alone for hours; launch.py detects dead processes


@dataclass(frozen=True, eq=False)
class Ranks:
    """This process among those of its run. A single process does not communicate.

    Attributes:
        rank: 0 ... world - 1; rank 0 writes to the store, the output folder and the screen.
        world: number of processes.
        device: device of tensors in collective operations.
        objects: process group for Python objects.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    objects: Any = None

    @property
    def distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world > 1

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, with tensors on the CPU (all-gather)."""
        if not self.distributed:
            return [value]
        packed = io.BytesIO()
        torch.save(value, packed)
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, packed.getvalue(), group=self.objects)
        return [torch.load(io.BytesIO(p), map_location="cpu", weights_only=False) for p in parts]

    def union(self, mine: Mapping[Name, T]) -> dict[Name, T]:
        """The union of the processes' mappings, on all of them."""
        return {name: value for part in self.gather(mine) for name, value in part.items()}

    def broadcast(self, value: T) -> T:
        """The value of rank 0, on all processes."""
        if not self.distributed:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self.objects)
        received: T = box[0]
        return received

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes of tensors of the same shape and dtype, on the original device."""
        if not self.distributed:
            return tensor
        moved = tensor.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(moved)
        return moved.to(tensor.device)

    def in_order(self, mine: Sequence[T]) -> list[T]:
        """The processes' values per batch, merged into the order of all batches."""
        parts = self.gather(list(mine))
        total = sum(map(len, parts))
        return [parts[i % self.world][i // self.world] for i in range(total)]

    def shard(self, loader: DataLoader[T]) -> DataLoader[T]:
        """This process's batches of a loader that reads its data set in order."""
        if not self.distributed:
            return loader
        total, size = len(loader.dataset), loader.batch_size  # type: ignore[arg-type]
        assert size is not None  # see ImageData
        firsts = range(self.rank * size, total, self.world * size)
        mine = [i for first in firsts for i in range(first, min(first + size, total))]
        return DataLoader(
            Subset(loader.dataset, mine),
            batch_size=size,
            num_workers=-(-loader.num_workers // self.world),
            pin_memory=loader.pin_memory,
        )

    def assigned(self, costs: Sequence[float]) -> list[int]:
        """Indices of the tasks of this process, in order.

        Longest processing time first: the costliest task goes to the least loaded rank. No share
        costs more than 4/3 of the optimum (Graham, Bounds on Multiprocessing Timing Anomalies,
        1969).
        """
        loads = [0.0] * self.world
        own = []
        for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
            rank = loads.index(min(loads))
            loads[rank] += costs[task]
            if rank == self.rank:
                own.append(task)
        return sorted(own)

    def driven_by_rank_0(
        self, lead: Callable[[Callable[[Any], Any]], T], ask: Callable[[Any], Any]
    ) -> T:
        """lead(ask), run by rank 0; all processes take part in every ask(question).

        For decisions that could differ between processes, such as a search with a time limit.
        """
        if not self.distributed:
            return lead(ask)
        if self.rank == 0:

            def ask_all(question: Any) -> Any:
                self.broadcast((True, question))
                return ask(question)

            return self.broadcast((False, lead(ask_all)))[1]
        while True:
            is_question, value = self.broadcast((False, None))
            if not is_question:
                result: T = value  # type: ignore[assignment]
                return result
            ask(value)


def on_gpu(accelerator: str) -> bool:
    """Whether Lightning uses an NVIDIA GPU for this accelerator name, here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


@contextmanager
def process_group(process: ProcessRank, accelerator: str) -> Iterator[Ranks]:
    """Join the process group of the run: gloo on CPUs, nccl on GPUs.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    if process.world == 1:
        yield Ranks()
        return
    device = torch.device("cpu")
    if on_gpu(accelerator):
        if torch.cuda.device_count() < process.world:
            raise ValueError(
                f"machine.devices={process.world} exceeds the {torch.cuda.device_count()} GPUs of "
                "this machine: set it lower, or run on the CPU with machine.accelerator=cpu"
            )
        device = torch.device("cuda", process.rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        init_method=f"file://{process.folder}/meeting",
        rank=process.rank,
        world_size=process.world,
        timeout=TIMEOUT,
    )
    objects: Any = dist.new_group(backend="gloo", timeout=TIMEOUT)
    yield Ranks(process.rank, process.world, device, objects)
    dist.barrier(objects)  # not after an error: others may be gone
    dist.destroy_process_group()
