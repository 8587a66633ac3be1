"""Decoded samples that stay in memory until nobody asks for them any more."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import psutil
from torch import Tensor

LIMIT = 2**30  # bytes
SHARE = 4  # of the memory that is free: one part in so many


class ImageCache:
    """What was decoded, by key; as much as there is room for, first come, first kept.

    A pass over more samples than fit finds the same ones kept every time; those that were used
    least recently would be gone just before they are asked for again.
    """

    def __init__(self) -> None:
        self._now: dict[Hashable, tuple[Tensor, Any]] = {}  # asked for since the last `renew`
        self._before: dict[Hashable, tuple[Tensor, Any]] = {}  # not yet, but since the one before
        self._room = LIMIT

    def renew(self) -> None:
        """Another job begins: drop what the last one has not asked for."""
        self._before, self._now = self._now, {}
        used = sum(map(_size, self._before.values()))
        self._room = min(LIMIT - used, psutil.virtual_memory().available // SHARE)

    def get(self, key: Hashable, decode: Callable[[], tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        """The sample of this key, not to be changed in place."""
        if key in self._now:
            return self._now[key]
        if key in self._before:
            found = self._before.pop(key)
        else:
            found = decode()
            if _size(found) > self._room:
                return found
            self._room -= _size(found)
        self._now[key] = found
        return found


def _size(sample: tuple[Tensor, Any]) -> int:
    """In bytes; what is no tensor takes next to nothing."""
    return sum(part.nbytes for part in sample if isinstance(part, Tensor))


samples = ImageCache()  # of this process: the jobs of a sweep mostly want the same ones
