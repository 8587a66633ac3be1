"""Text of files that anyone may have put there: a pipe or a device is refused, not waited for."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a regular file, in UTF-8.

    Raises:
        OSError: it cannot be read, or is no regular file.
        UnicodeDecodeError: it holds something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return path.read_text(encoding="utf-8", errors=errors)
