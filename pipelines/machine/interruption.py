"""Ctrl-C and SIGTERM end a run at once, in spite of Lightning; what is finished is stored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, of `kill` or of a batch system, ends a run as Ctrl-C does.

    Lightning hears it while it trains only, and takes it where nobody else does.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    mine = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != mine:  # one that was forked, to load images
            os._exit(128 + number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning turns it into a SystemExit and is deaf to further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as err:
        if isinstance(err.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from err
        raise
