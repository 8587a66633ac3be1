"""A reader who has seen enough (`obliq --help | head -1`) changes nothing but what is printed.

What is written to a closed pipe is dropped: a run goes on, and a command ends with the exit status
that it has otherwise.
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
    """A file whose bytes go nowhere from the moment on when nobody reads them any more."""

    def write(self, data: ReadableBuffer, /) -> int:
        """How many bytes were taken: all, where the pipe is closed."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


@contextmanager
def forgiving() -> Iterator[None]:
    """Within, the standard streams that are pipes may be closed by their readers."""
    before = sys.stdout, sys.stderr
    ours = [_forgiving(stream) for stream in before]
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        for stream in filter(None, ours):  # Python has none where nobody could see them
            stream.flush()
        sys.stdout, sys.stderr = before


def _forgiving(stream: TextIO) -> TextIO:
    """`stream`, through a `Forgiving` file where it is a pipe (or a socket)."""
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
