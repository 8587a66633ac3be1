"""Moments of a run, counted by where they are, so that something can be done at any one of them.

A moment is a batch that has passed, the begin or end of a stage, or the instant before a file of
the store or of the output folder is opened for writing, renamed or removed. Every one is written to
a trace file: where, its number there, what.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class Moment:
    """Moment `number` of those at `where`; `delay` seconds later, anything may be going on."""

    where: str
    number: int
    delay: float = 0.0


class Points:
    """Counts the moments of this process, and sends it a signal at one of them."""

    def __init__(self, trace: Path, folders: Sequence[Path], at: Moment | None, do: str) -> None:
        self._file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._folders = tuple(str(folder) for folder in folders)
        self._at, self._signal = at, SIGNALS[do]
        self._where = ["start"]
        self._counts: Counter[str] = Counter()
        self._thread = threading.get_ident()
        sys.addaudithook(self._audit)

    def hit(self, what: str) -> None:
        """The next moment."""
        if threading.get_ident() != self._thread:
            return
        where = "/".join(self._where[1:] or self._where)
        self._counts[where] += 1
        os.write(self._file, f"{where}\t{self._counts[where]}\t{what}\n".encode())
        if self._at and (where, self._counts[where]) == (self._at.where, self._at.number):
            self._act()

    @contextmanager
    def within(self, where: str):
        """Moments within are counted apart."""
        self._where.append(where)
        self.hit("begin")
        yield
        self.hit("end")
        self._where.pop()

    def around(self, owner: object, method: str, name: str | Callable[..., str]) -> None:
        """Count what goes on in a method apart, under a name or what its arguments say."""
        call = getattr(owner, method)

        @wraps(call)
        def inner(*args, **kwargs):
            with self.within(name if isinstance(name, str) else name(*args)):
                return call(*args, **kwargs)

        setattr(owner, method, inner)

    def after(self, owner: object, method: str, what: str) -> None:
        """Every return from a method is a moment."""
        call = getattr(owner, method)

        @wraps(call)
        def inner(*args, **kwargs):
            result = call(*args, **kwargs)
            self.hit(what)
            return result

        setattr(owner, method, inner)

    def _act(self) -> None:
        if not self._at.delay:
            os.kill(os.getpid(), self._signal)
            return

        def later():
            time.sleep(self._at.delay)
            os.kill(os.getpid(), self._signal)

        threading.Thread(target=later, daemon=True).start()

    def _audit(self, event: str, args: tuple) -> None:
        changes = event in CHANGES or (event == "open" and (args[2] or 0) & WRITING)
        if changes and isinstance(args[0], str | os.PathLike):
            path = os.fspath(args[0])
            if isinstance(path, str) and path.startswith(self._folders):
                self.hit(f"{event} {os.path.basename(path)}")
