"""A size limit for the store, `OBLIQ_CACHE_LIMIT=20GB`, enforced at the end of a run.

Removes the least recently used results first, like `obliq store gc --keep 20GB`, but none that this
run or another running one has used, so that repeating the command finds them.
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
    """Maximum size of the store in bytes; None: no limit.

    Raises:
        ValueError: the variable is not a size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        return size_in_bytes(text)
    except argparse.ArgumentTypeError as err:
        raise ValueError(f"{VARIABLE}: {err}; unset it for no limit") from None


def enforce(root: Path, log: Callable[[str], None]) -> None:
    """Remove unused results until the store is within the limit; log what was removed.

    The run has ended well, so a store that cannot be tidied up is only told of.
    """
    maximum = limit()
    if maximum is None:
        return
    try:
        _enforce(root, maximum, log)
    except OSError as err:
        log(f"store: the limit could not be kept: {err.strerror or err}: {err.filename or root}")


def _enforce(root: Path, maximum: int, log: Callable[[str], None]) -> None:
    plan = gc.plan(root, maximum, None)
    removed = gc.remove([item for item, _ in plan.remove])
    gc.remove_locks(root)
    if removed:
        freed = size(sum(item.size for item in removed))
        log(f"store: removed {freed} of least recently used results ({VARIABLE}={size(maximum)})")
    left = sum(item.size for item in contents.scan(root))
    if left > maximum:
        why = "but all of it was just used, or belongs to others"
        log(f"store: {size(left)} exceed {VARIABLE}={size(maximum)}, {why}")
