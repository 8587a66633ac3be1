"""Waiting for what another process or thread does: for the event itself, however long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 1800.0  # seconds: ends a test that hangs, and decides nothing else


def until(happens: Callable[[], object], goes_on: Callable[[], bool] = lambda: True) -> bool:
    """Wait until it happens; False where what it is waited for has ended without it.

    Args:
        happens: whether it has.
        goes_on: whether it still may.
    """
    end = time.monotonic() + PATIENCE
    while not happens():
        if not goes_on():
            return bool(happens())
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
    return True
