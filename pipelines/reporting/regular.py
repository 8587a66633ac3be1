"""Text of files that anyone may have put there: a pipe or a device is refused, not waited for."""

from __future__ import annotations

from pathlib import Path

from evaluation.image_files import read


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a regular file, in UTF-8.

    Raises:
        OSError: it cannot be read, or is no regular file.
        UnicodeDecodeError: it holds something else.
    """
    return read(path).decode("utf-8", errors)
