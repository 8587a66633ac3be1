"""Forward passes paused at a layer, in the float and the quantized network.

They resume at the next layer, so that collecting the inputs of all layers one after the other
costs one forward pass instead of one per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from quant.calls import Call, Calls
from quant.layers import Layer
from quant.stepped_forward import SteppedForward, Stop

GB = 10**9


class ActivationCache:
    """Paused passes of the first batches, as many as fit; other batches rerun for every layer.

    Nothing is cached if a forward pass uses a layer more than once, or layers in another order
    than `layers`: an input then depends on weights that changed after the pass had used them.

    Attributes:
        passes: paused passes through the float and the quantized network, by batch index.
        filled: the first pass over the data is over; no batch is added any more.
        full: at least one batch is not in the cache.
    """

    def __init__(
        self,
        network: nn.Module,
        quantized: nn.Module,
        layers: Mapping[str, Layer],
        cache_gb: float,
    ) -> None:
        self.networks, self.layers, self.memory = (network, quantized), layers, cache_gb * GB
        self.passes: dict[int, tuple[SteppedForward, SteppedForward]] = {}
        self.filled, self.full = False, cache_gb <= 0
        self._bytes: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        """Whether every batch is in the cache."""
        return self.filled and not self.full

    def add(self, index: int, images: Tensor) -> bool:
        """Start the passes of a batch; False if it is not cached. Batches come in order."""
        if self.filled or self.full or not (self.passes or self._cacheable(images)):
            self.full = True
            return False
        reference, quantized = (SteppedForward(network, images) for network in self.networks)
        self.passes[index] = (reference, quantized)
        return True

    def calls(self, index: int, layer: Layer) -> tuple[list[Call], list[Call]]:
        """Calls of a layer in both networks; advances the passes of the batch to that layer."""
        passes = self.passes[index]
        reference, quantized = (
            calls_of(layer, network, one.advance)
            for network, one in zip(self.networks, passes, strict=True)
        )
        self._bytes[index] = sum(one.bytes() for one in passes)
        return reference, quantized

    def evict(self) -> None:
        """Drop the last batches until the others fit."""
        while self.passes and sum(self._bytes.values()) > self.memory:
            self.full = True
            self._drop(max(self.passes))

    def close(self) -> None:
        """Drop all batches."""
        for index in list(self.passes):
            self._drop(index)

    def _drop(self, index: int) -> None:
        for one in self.passes.pop(index):
            one.close()
        self._bytes.pop(index, None)

    def _cacheable(self, images: Tensor) -> bool:
        """Whether a pass uses every layer once, in the order of `layers`."""
        if not images.is_floating_point():  # token ids: the calls depend on the sentence lengths
            return False
        network, used = self.networks[0], list[str]()
        weights = {n: network.get_parameter(layer.weight) for n, layer in self.layers.items()}
        with torch.no_grad(), Calls(weights, lambda name, operation, call: used.append(name)):
            network(images)
        return used == list(self.layers)


def calls_of(
    layer: Layer,
    network: nn.Module,
    run: Callable[[], object],
    enough: Callable[[Call], bool] = lambda call: True,
) -> list[Call]:
    """Calls of a layer of `network` during `run()`, which stops at the first `enough` call."""
    calls: list[Call] = []

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            calls.append(call)
            if enough(call):
                raise Stop

    weight = network.get_parameter(layer.weight)
    with suppress(Stop), Calls({layer.name: weight}, receive):
        run()
    return calls
