"""A size that the store is held to: `OBLIQ_CACHE_LIMIT=20GB`, looked at when a run has ended.

The least recently used goes first, as in `obliq store gc --keep 20GB`; what this run or another one
that goes on has used stays, so that the same command finds it again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from pipelines.store import contents, gc
from pipelines.store.command import size, size_in_bytes

VARIABLE = "OBLIQ_CACHE_LIMIT"


def limit() -> int | None:
    """Bytes that the store may hold, None for any number.

    Raises:
        ValueError: the variable is set to something that is no size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        return size_in_bytes(text)
    except argparse.ArgumentTypeError as err:
        raise ValueError(f"{VARIABLE}: {err}; unset it for a store without a limit") from None


def enforce(root: Path, say: Callable[[str], None]) -> None:
    """Make the store small enough, as far as nobody uses what is in it, and say what went."""
    most = limit()
    if most is None:
        return
    plan = gc.plan(root, most, None)
    gone = gc.remove([item for item, _ in plan.remove])
    if gone:
        freed = size(sum(item.size for item in gone))
        say(f"store: {freed} not used of late removed ({VARIABLE}={size(most)})")
    left = sum(item.size for item in contents.scan(root))
    if left > most:
        say(f"store: {size(left)}, more than {VARIABLE}={size(most)}: all of it was just used")
