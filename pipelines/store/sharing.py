"""Stores that several users of a group share.

The folder of such a store can be written by its group (chmod 2775). Then what a run writes into it
can be too, whatever the umask: else the next user could neither resume, lock nor remove it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GROUP = 0o070


def is_shared(root: Path) -> bool:
    """Whether the group of a store's folder can write it."""
    try:
        return bool(root.stat().st_mode & stat.S_IWGRP)
    except OSError:
        return False


@contextmanager
def for_the_group(root: Path) -> Iterator[None]:
    """What is created within this context can be written by the group, in a store that is shared.

    The umask is of the whole process, so keep the context short.
    """
    if not is_shared(root):
        yield
        return
    mask = os.umask(0)
    os.umask(mask & ~GROUP)
    try:
        yield
    finally:
        os.umask(mask)
