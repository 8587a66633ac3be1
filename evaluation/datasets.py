"""Data sets of network inputs, decoded on access, and their data loader."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from evaluation import image_cache
from evaluation.samples import Samples
from evaluation.task import Batch, View

Batches = DataLoader[Batch]


class DecodedDataset(Dataset[Any]):
    """Network inputs, decoded on first access and then cached.

    Args:
        samples: encoded samples.
        view: the network's preprocessing; equal ones give the same.
        label_content: what a label stands for, see `ImageTask.label_content`.
    """

    def __init__(
        self,
        samples: Samples,
        view: View,
        label_content: Callable[[Any], Any] = lambda label: label,
    ) -> None:
        self.samples, self.view, self.label_content = samples, view, label_content
        self.digests = samples.digests  # now: loader processes would each read all files

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if get_worker_info() is not None:  # a cache would end with the process
            return self._decoded(index)
        samples = self.samples
        label = repr(self.label_content(samples.labels[index]))
        how = tuple(map(_Same.of, (self.view, samples.decode)))
        key = (*how, self.digests[index], label)
        return image_cache.cache.get(key, lambda: self._decoded(index))

    def _decoded(self, index: int) -> tuple[Tensor, Any]:
        return self.view(self.samples.image(index), self.samples.labels[index])


class _Same:
    """A key that only the very same object has, for objects that have no hash of their content."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)

    @classmethod
    def of(cls, value: Any) -> Hashable:
        """`value` itself where it has a hash."""
        try:
            hash(value)
        except TypeError:
            return cls(value)
        found: Hashable = value
        return found


class IndexedDataset(Dataset[tuple[Tensor, int]]):
    """Images with their indices instead of their labels."""

    def __init__(self, images: DecodedDataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index][0], index


def loader(images: Dataset[Any], workers: int, batches: int | Sequence[Sequence[int]]) -> Batches:
    """A data loader that keeps the order.

    Args:
        images: data set of network inputs.
        workers: loader processes; at most one per core is started.
        batches: batch size, or the indices of each batch.
    """
    sampling: dict[str, Any] = (
        {"batch_size": batches}
        if isinstance(batches, int)
        else {"batch_sampler": [list(batch) for batch in batches]}
    )
    return DataLoader(
        images,
        **sampling,
        num_workers=min(workers, _cores()),
        pin_memory=torch.cuda.is_available(),
    )


def _cores() -> int:
    """Cores available to this process; more loader processes than that only wait."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
