"""Which processes are using a store, so that nothing is taken from under them.

A run holds a lock file `<root>/running/<start>-<pid>.lock` as long as it goes on; the operating
system frees it when the process ends, however it ends. Whatever was used since the first of them
started may still be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from pipelines.machine import clock

FOLDER = "running"
CLOCKS = 1.0  # seconds that a file system's clock may be behind


@contextmanager
def using(root: Path) -> Iterator[None]:
    """Nothing that is used within is taken out of the store by another process meanwhile."""
    try:
        lock = _registered(root / FOLDER)
    except OSError:  # what cannot be written, the run itself will say
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # gone, or read-only by now
            Path(lock.lock_file).unlink()
        lock.release()


def _registered(folder: Path) -> BaseFileLock:
    """A lock of this process alone; a new one where another has just looked whether it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        lock = FileLock(folder / f"{round(1e9 * clock.now())}-{os.getpid()}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return lock


def first_start(root: Path) -> float | None:
    """When the first run that uses the store now began to, as `clock.now()`; None without any.

    Files of processes that have ended are removed.
    """
    alive = []
    for path in sorted((root / FOLDER).glob("*.lock")):
        started = path.name.split("-")[0]
        if is_held(path, remove=True):
            alive.append(int(started) / 1e9 if started.isdecimal() else 0.0)
    return min(alive) - CLOCKS if alive else None


def is_held(path: Path, remove: bool = False) -> bool:
    """Whether a process holds a lock file.

    With `remove` one that is not held goes, while we hold it: who is about to lock it will notice.
    """
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    if remove:
        path.unlink(missing_ok=True)
    lock.release()
    return False
