"""Samples as a network takes them, decoded when a loader asks for them."""

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
    """Samples as a network takes them, decoded when asked for the first time.

    Args:
        samples: to be decoded.
        view: of the network.
        source: what the view of a sample depends on beside its id; the same for the same pictures.
    """

    def __init__(self, samples: Samples, view: View, source: str) -> None:
        if hasattr(view, "load"):
            view.load()
        self.samples, self.view = samples, view
        self.source = source, samples.container or samples.blob

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if get_worker_info() is not None:  # a loader process ends after its pass
            return self._decoded(index)
        return image_cache.samples.get(
            (self.source, self.samples.ids[index]), lambda: self._decoded(index)
        )

    def _decoded(self, index: int) -> tuple[Tensor, Any]:
        samples = self.samples
        image = samples.decode(samples.blob(samples.ids[index]))
        return self.view(image, samples.labels[index])


class IndexedDataset(Dataset[tuple[Tensor, int]]):
    """Images with their numbers instead of their labels."""

    def __init__(self, images: DecodedDataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index][0], index


def loader(images: Dataset[Any], workers: int, batches: int | Sequence[Sequence[int]]) -> Batches:
    """Batch by batch, in order.

    Args:
        images: decoded.
        workers: loader processes; at most one per core is started.
        batches: images of a batch, or the numbers of those of every batch.
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
    """Cores this process may use: more loader processes than that only wait."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
