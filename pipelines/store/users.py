"""Processes that are using a store, whose artifacts must not be removed.

A run holds a lock file `<root>/running/<start>-<pid>.lock`; the operating system releases it when
the process ends, however it ends. Any artifact used since the oldest of these runs started may
still be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from pipelines.machine import clock
from pipelines.store.sharing import for_the_group

FOLDER = "running"
CLOCK_SKEW = 1.0  # seconds by which a file system's clock may be behind


@contextmanager
def using(root: Path) -> Iterator[None]:
    """Protect the artifacts used within this context from removal by other processes."""
    try:
        with for_the_group(root):
            lock = _register(root / FOLDER)
    except OSError:  # the run itself reports a store that it cannot write
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # removed, or read-only by now
            Path(lock.lock_file).unlink()
        lock.release()


def _register(folder: Path) -> BaseFileLock:
    """Take a lock file of our own; try a new one if another process is just probing ours."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        lock = FileLock(folder / f"{round(1e9 * clock.now())}-{os.getpid()}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return lock


def first_start(root: Path) -> float | None:
    """Start of the oldest run that is using the store, as `clock.now()`; None without any.

    Removes the lock files of processes that have ended.
    """
    alive = []
    for path in sorted((root / FOLDER).glob("*.lock")):
        started = path.name.split("-")[0]
        if is_held(path, remove=True):
            alive.append(int(started) / 1e9 if started.isdecimal() else 0.0)
    return min(alive) - CLOCK_SKEW if alive else None


def is_held(path: Path, remove: bool = False) -> bool:
    """Whether a process holds a lock file.

    With `remove`, delete a file that is not held, while holding it: a process that is about to
    lock it notices.
    """
    lock = FileLock(path)
    try:
        if not path.exists():
            return False
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # another user's
        return _is_flocked(path)
    if remove:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    lock.release()
    return False


def _is_flocked(path: Path) -> bool:
    """Whether a process holds a file that this one can only read; True where it cannot even that.

    On a system without flock too.
    """
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (OSError, ImportError):
        return True
    return False
