"""Batches that wait, in the float and in the quantized network, where the last layer was.

So the inputs of all layers, one after the other, cost one pass instead of one for each layer.
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
    """The first batches, as many as memory allows; the others run from the start every time.

    None wait where a layer is used more than once in a pass, or not in the order given: what it
    gets then depends on what it was when it was used before.

    Attributes:
        walks: through the float and the quantized network, by the batch's number.
        begun: batches have had their chance to begin.
        full: some have not, or no longer, a place.
    """

    def __init__(
        self,
        network: nn.Module,
        quantized: nn.Module,
        layers: Mapping[str, Layer],
        memory_gb: float,
    ) -> None:
        self.networks, self.layers, self.memory = (network, quantized), layers, memory_gb * GB
        self.walks: dict[int, tuple[SteppedForward, SteppedForward]] = {}
        self.begun, self.full = False, memory_gb <= 0
        self._bytes: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        """Every batch waits."""
        return self.begun and not self.full

    def begin(self, number: int, images: Tensor) -> bool:
        """Whether this batch waits from now on; they begin in order."""
        if self.begun or self.full or not (self.walks or self._straight(images)):
            self.full = True
            return False
        walks = [SteppedForward(network, images) for network in self.networks]
        self.walks[number] = (walks[0], walks[1])
        return True

    def calls(self, number: int, layer: Layer) -> tuple[list[Call], list[Call]]:
        """What a layer gets in both networks; the batch waits there."""
        walks, (network, quantized) = self.walks[number], self.networks
        found = (
            calls_of(layer, network, walks[0].advance),
            calls_of(layer, quantized, walks[1].advance),
        )
        self._bytes[number] = sum(walk.bytes() for walk in walks)
        return found

    def make_room(self) -> None:
        """Give up the last ones until the others fit."""
        while self.walks and sum(self._bytes.values()) > self.memory:
            self.full = True
            self._give_up(max(self.walks))

    def close(self) -> None:
        """Give up all of them."""
        for number in list(self.walks):
            self._give_up(number)

    def _give_up(self, number: int) -> None:
        for walk in self.walks.pop(number):
            walk.close()
        self._bytes.pop(number, None)

    def _straight(self, images: Tensor) -> bool:
        """Whether a pass uses every layer once, in their order; sentences may differ in that."""
        if not images.is_floating_point():
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
    """What a layer of `network` gets in `run`, which is stopped before a call that is enough."""
    found: list[Call] = []

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is not None:
            found.append(call)
            if enough(call):
                raise Stop

    weight = network.get_parameter(layer.weight)
    with suppress(Stop), Calls({layer.name: weight}, receive):
        run()
    return found
