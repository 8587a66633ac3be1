"""Survive a closed output pipe (`obliq --help | head -1`).

Output to a closed pipe is discarded: the run continues and the exit status is unaffected.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Forgiving(io.FileIO):
    """A file that discards its output once the reader has closed the pipe."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes; returns how many were written, all of them if the pipe is closed."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


@contextmanager
def forgiving() -> Iterator[None]:
    """Context in which readers may close stdout and stderr where these are pipes."""
    before = sys.stdout, sys.stderr
    ours = [_forgiving(stream) for stream in before]
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        for stream in filter(None, ours):  # None in a process without a console
            stream.flush()
        sys.stdout, sys.stderr = before


def _forgiving(stream: TextIO) -> TextIO:
    """`stream` through a `Forgiving` file if it is a pipe or a socket, else unchanged."""
    if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), Forgiving):
        return stream
    try:
        number = stream.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):  # none, captured by a test, or closed
        return stream
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Forgiving(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream is sys.stderr,
    )
