"""The time. Nothing else asks the system for it, so that tests can put another clock here."""

from __future__ import annotations

import time
from datetime import datetime


def seconds() -> float:
    """Seconds since some moment of this process, always forward: for how long something takes."""
    return time.perf_counter()


def processor_seconds() -> float:
    """Seconds that this process has computed, on all its threads; none while it was stopped."""
    return time.process_time()


def now() -> float:
    """Seconds since 1970, as other processes and file systems count them."""
    return time.time()


def date() -> datetime:
    """`now` as local date and time."""
    return datetime.fromtimestamp(now())


def sleep(length: float) -> None:
    """Do nothing for so many seconds."""
    time.sleep(length)
