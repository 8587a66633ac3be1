"""Memory of the C library: kept while it is used again and again, given back between stages.

Activations are large blocks that live for one operation. glibc hands such blocks back to the system
at once, and getting them again costs a page fault for every 4 kB: more than half the time of a
MobileNet on a processor. See mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers them
LARGEST = 2**31 - 1
ALLOWED = 2**25  # what older versions of glibc take at most for MMAP_THRESHOLD


def keep_freed() -> None:
    """Let freed blocks up to a gigabyte be used again instead of returning them at once."""
    libc = _libc("mallopt")
    if libc is not None:
        libc.mallopt(TRIM_THRESHOLD, LARGEST)
        libc.mallopt(MMAP_THRESHOLD, 2**30) or libc.mallopt(MMAP_THRESHOLD, ALLOWED)


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
