"""Memory of the C library: reused within stages, returned to the system between them.

Activations are large blocks that live for one operation. By default glibc returns such blocks to
the system at once, and a new one costs a page fault per 4 kB: more than half the time of a
MobileNet on a CPU. See mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # constants of <malloc.h>
NEVER = 2**31 - 1
INFERENCE, TRAINING = 2**30, 2**25  # largest block to reuse, in bytes


def keep_freed(largest: int = INFERENCE) -> None:
    """Reuse freed blocks instead of returning them to the system at once.

    Args:
        largest: largest block to reuse, in bytes. A training uses most of its blocks at the same
            time and can reuse few large ones: with a high limit its memory grows by a third.
    """
    libc = _libc("mallopt")
    if libc is not None:
        libc.mallopt(ARENA_MAX, 1)  # other threads' heaps hold 64 MB and are freed when empty
        libc.mallopt(TRIM_THRESHOLD, NEVER)
        if not libc.mallopt(MMAP_THRESHOLD, largest):  # older versions of glibc limit it to 32 MB
            libc.mallopt(MMAP_THRESHOLD, TRAINING)


@contextmanager
def importing() -> Iterator[None]:
    """Pause garbage collection during imports, where it costs a second and frees little."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing_late(library: str) -> Iterator[None]:
    """Import a large library during a run, without garbage collection of its objects."""
    gc.collect()  # else garbage would be frozen
    with importing():
        yield
        freeze_gc(library)


@cache
def freeze_gc(imports: str) -> None:
    """Exclude all current objects, most of them of imported modules, from garbage collection.

    They are a million objects, and scanning them again and again costs a sweep seconds.

    Args:
        imports: what was just imported. Only the first call for it has an effect: later ones would
            freeze garbage too.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries report frozen objects as leaks


def trim() -> None:
    """Return free memory to the system."""
    libc = _libc("malloc_trim")
    if libc is not None:
        libc.malloc_trim(0)


def _libc(function: str) -> Any:
    """glibc, or None if the C library lacks the function."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        getattr(libc, function)
    except (OSError, AttributeError):
        return None
    return libc
