"""How many threads a computation is worth: waking them costs more than they do on small tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from quant.layers import Layer

WEIGHTS = 2**20  # of a layer that another thread is worth in its solve


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """While active, this thread and those it starts compute with so many threads at most."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, count)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def solving(layer: Layer) -> AbstractContextManager[None]:
    """As many threads as the solve of this layer is worth; the same for every method."""
    return at_most(math.prod(layer.shape) // WEIGHTS)
