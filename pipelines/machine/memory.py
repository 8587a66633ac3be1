"""Memory of the C library: kept while it is used again and again, given back between stages.

Activations are large blocks that live for one operation. glibc hands such blocks back to the system
at once, and getting them again costs a page fault for every 4 kB: more than half the time of a
MobileNet on a processor. See mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # as <malloc.h> numbers them
NEVER = 2**31 - 1
INFERENCE, TRAINING = 2**30, 2**25  # largest block to keep, in bytes


def keep_freed(largest: int = INFERENCE) -> None:
    """Let freed blocks be used again instead of returning them at once.

    Args:
        largest: in bytes. A training has most of its blocks in use at the same time, and their
            holes fit few others: with large ones its memory grows by a third.
    """
    libc = _libc("mallopt")
    if libc is not None:
        libc.mallopt(ARENA_MAX, 1)  # heaps of other threads have 64 MB, and go when they are empty
        libc.mallopt(TRIM_THRESHOLD, NEVER)
        if not libc.mallopt(MMAP_THRESHOLD, largest):  # older versions of glibc take no more than
            libc.mallopt(MMAP_THRESHOLD, TRAINING)


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage meanwhile: modules make little, and looking for it takes a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def settle() -> None:
    """Leave what is there now, most of it imported modules, out of all garbage collections.

    They are a million objects, and looking through them again and again takes seconds of a sweep.
    Only the first call does it: later ones would keep garbage.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries complain of what they think has leaked


def give_back() -> None:
    """Return what is free now to the system, for whoever else needs it."""
    libc = _libc("malloc_trim")
    if libc is not None:
        libc.malloc_trim(0)


def _libc(function: str) -> Any:
    """glibc, or None where another C library has no such function."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        getattr(libc, function)
    except (OSError, AttributeError):
        return None
    return libc
