"""What the processes of one run tell each other. All of them run the same chain on the same inputs.

Batches are what is shared: of those that a single process would see, rank r of N takes number r,
r + N, ... None is seen twice, and what is computed batch by batch is the same for every N. Sums
over batches are added up once, at the end; no collective operation waits inside a loop, so that one
batch more or less does no harm.
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
PATIENCE = timedelta(days=30)  # for rank 0 alone may work for hours; a dead process is found anyway


@dataclass(frozen=True, eq=False)
class Ranks:
    """This process among those of its run. With one process nothing is sent anywhere.

    Attributes:
        rank: 0 ... world - 1; 0 writes to the store, the output folder and the screen.
        world: how many processes there are.
        device: of tensors on their way.
        words: process group for what is no large tensor.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    words: Any = None

    @property
    def several(self) -> bool:
        """There are others."""
        return self.world > 1

    def gather(self, value: T) -> list[T]:
        """What every process has, by rank, on all of them, with its tensors on the CPU."""
        if not self.several:
            return [value]
        packed = io.BytesIO()
        torch.save(value, packed)
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, packed.getvalue(), group=self.words)
        return [torch.load(io.BytesIO(f), map_location="cpu", weights_only=False) for f in found]

    def union(self, mine: Mapping[Name, T]) -> dict[Name, T]:
        """All of what each process has some of, by name, on all of them."""
        return {name: value for part in self.gather(mine) for name, value in part.items()}

    def broadcast(self, value: T) -> T:
        """What rank 0 has, on all of them."""
        if not self.several:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self.words)
        agreed: T = box[0]
        return agreed

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes of tensors of one shape and kind, on all of them, where it was."""
        if not self.several:
            return tensor
        moved = tensor.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(moved)
        return moved.to(tensor.device)

    def in_order(self, mine: Sequence[T]) -> list[T]:
        """What each process has of each of its batches, in the order of all batches."""
        parts = self.gather(list(mine))
        total = sum(map(len, parts))
        return [parts[i % self.world][i // self.world] for i in range(total)]

    def share(self, loader: DataLoader[T]) -> DataLoader[T]:
        """This process's batches of a loader that goes through its data set in order."""
        if not self.several:
            return loader
        total, size = len(loader.dataset), loader.batch_size  # type: ignore[arg-type]
        assert size is not None  # batches of a size, see ImageData
        firsts = range(self.rank * size, total, self.world * size)
        mine = [i for first in firsts for i in range(first, min(first + size, total))]
        return DataLoader(
            Subset(loader.dataset, mine),
            batch_size=size,
            num_workers=-(-loader.num_workers // self.world),
            pin_memory=loader.pin_memory,
        )

    def mine(self, costs: Sequence[float]) -> list[int]:
        """Which of several tasks are this process's, in their order.

        The dearest first, each to whoever has least to do: no share costs more than 4/3 of the
        best possible (Graham, Bounds on Multiprocessing Timing Anomalies, 1969).
        """
        loads = [0.0] * self.world
        found = []
        for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
            rank = loads.index(min(loads))
            loads[rank] += costs[task]
            if rank == self.rank:
                found.append(task)
        return sorted(found)

    def led(self, lead: Callable[[Callable[[Any], Any]], T], ask: Callable[[Any], Any]) -> T:
        """lead(ask), where rank 0 alone leads and all of them take part in every ask(question).

        For what would not be the same everywhere: a search that looks at the clock, say.
        """
        if not self.several:
            return lead(ask)
        if self.rank == 0:

            def ask_all(question: Any) -> Any:
                self.broadcast((True, question))
                return ask(question)

            return self.broadcast((False, lead(ask_all)))[1]
        while True:
            more, value = self.broadcast((False, None))
            if not more:
                found: T = value  # type: ignore[assignment]
                return found
            ask(value)


def on_gpu(accelerator: str) -> bool:
    """Whether Lightning takes a GPU of NVIDIA's for this name, here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


@contextmanager
def joined(place: ProcessRank, accelerator: str) -> Iterator[Ranks]:
    """Meet the other processes: gloo between processors, nccl between GPUs.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    if place.world == 1:
        yield Ranks()
        return
    device = torch.device("cpu")
    if on_gpu(accelerator):
        if torch.cuda.device_count() < place.world:
            raise ValueError(
                f"machine.devices={place.world} asks for more GPUs than the "
                f"{torch.cuda.device_count()} that are here. Processes on the processor need "
                "machine.accelerator=cpu"
            )
        device = torch.device("cuda", place.rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        init_method=f"file://{place.folder}/meeting",
        rank=place.rank,
        world_size=place.world,
        timeout=PATIENCE,
    )
    words: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield Ranks(place.rank, place.world, device, words)
    dist.barrier(words)  # not after an error: nobody may come
    dist.destroy_process_group()
