"""Random numbers of a stage: they follow from its key, not from what ran before it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators with a key; as before afterwards."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    state, numbers = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)
