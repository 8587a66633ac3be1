"""Data sets of network inputs, decoded on access, and their data loader."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
        view: the network's preprocessing.
        source: cache key of everything but the id that the result depends on.
    """

    def __init__(self, samples: Samples, view: View, source: str) -> None:
        if hasattr(view, "load"):
            view.load()
        self.samples, self.view = samples, view
        self.source = source, samples.container or samples.blob

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if get_worker_info() is not None:  # a cache would end with the process
            return self._decoded(index)
        return image_cache.cache.get(
            (self.source, self.samples.ids[index]), lambda: self._decoded(index)
        )

    def _decoded(self, index: int) -> tuple[Tensor, Any]:
        samples = self.samples
        image = samples.decode(samples.blob(samples.ids[index]))
        return self.view(image, samples.labels[index])


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
