"""In-memory cache of decoded samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import psutil
from torch import Tensor

LIMIT = 2**30  # bytes
SHARE = 4  # use at most 1 / SHARE of the free memory


class ImageCache:
    """Decoded samples by key; once full, it adds nothing more until `renew`.

    With no eviction, passes over more samples than fit hit the same cached ones every time. LRU
    eviction would drop each sample just before its next use.
    """

    def __init__(self) -> None:
        self._now: dict[Hashable, tuple[Tensor, Any]] = {}  # used since the last `renew`
        self._before: dict[Hashable, tuple[Tensor, Any]] = {}  # used only before it
        self._room = LIMIT

    def renew(self) -> None:
        """Start of a job: drop what the previous job did not use."""
        self._before, self._now = self._now, {}
        used = sum(map(_size, self._before.values()))
        self._room = min(LIMIT - used, psutil.virtual_memory().available // SHARE)

    def get(self, key: Hashable, decode: Callable[[], tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        """The decoded sample of this key; do not modify it in place."""
        if key in self._now:
            return self._now[key]
        if key in self._before:
            sample = self._before.pop(key)
        else:
            sample = decode()
            if _size(sample) > self._room:
                return sample
            self._room -= _size(sample)
        self._now[key] = sample
        return sample


def _size(sample: tuple[Tensor, Any]) -> int:
    """Size in bytes; anything but tensors is negligible."""
    return sum(part.nbytes for part in sample if isinstance(part, Tensor))


cache = ImageCache()  # shared by the jobs of a sweep in one process: most use the same samples
