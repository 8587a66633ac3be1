"""Number of threads per computation: on small tensors, waking threads costs more than it saves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from quant.layers import Layer

WEIGHTS = 2**20  # weights of a layer per thread of its solve


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Limit torch to `count` threads within this context, in this thread and those it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, count)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def solving(layer: Layer) -> AbstractContextManager[None]:
    """Limit the threads to what the solve of this layer can use; the same for every method."""
    return at_most(math.prod(layer.shape) // WEIGHTS)
