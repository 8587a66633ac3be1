"""Which processes are using a store, so that nothing is taken from under them.

A run holds a lock file `<root>/running/<start>-<pid>.lock` as long as it goes on; the operating
system frees it when the process ends, however it ends. Whatever was used since the first of them
started may still be read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = "running"
CLOCKS = 1.0  # seconds that a file system's clock may be behind


@contextmanager
def using(root: Path) -> Iterator[None]:
    """Nothing that is used within is taken out of the store by another process meanwhile."""
    lock = FileLock(root / FOLDER / f"{time.time_ns()}-{os.getpid()}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except OSError:  # what cannot be written, the run itself will say
        yield
        return
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def first_start(root: Path) -> float | None:
    """When the first run that uses the store now began to, as time.time(); None without any.

    Files of processes that have ended are removed.
    """
    alive = []
    for path in sorted((root / FOLDER).glob("*.lock")):
        started = path.name.split("-")[0]
        if is_held(path):
            alive.append(int(started) / 1e9 if started.isdecimal() else 0.0)
        else:
            path.unlink(missing_ok=True)
    return min(alive) - CLOCKS if alive else None


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
