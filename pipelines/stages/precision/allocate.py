"""Stage: allocate bits to layers; the uniform allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.activations import QuantizeActivations
from pipelines.stages.solving.quantize import QuantizeLayers
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from quant.layers import Layer
from quant.precision import assign_bits, check_bits, check_layers


@dataclass(frozen=True, eq=False)
class AllocationContext:
    """What an allocation may use: float network, calibration images, later stages."""

    store: Store
    network: Network
    images: Keyed[ImageData]
    calibration: Artifact
    layers: Mapping[str, Layer]
    importance: Artifact | None
    quantize: QuantizeLayers
    activations: QuantizeActivations
    machine: Machine


@dataclass(frozen=True)
class Allocation:
    """Bits for every layer.

    Attributes:
        bits: bits of the weights, by layer.
        inputs: bits of the layers' inputs; None if the allocation does not set them.
        record: record of the search, for results.json; None without a search.
        seconds, cached: compute time of the search, and whether all of it came from the store.
    """

    bits: Mapping[str, int]
    inputs: Mapping[str, int] | None = None
    record: Mapping[str, Any] | None = None
    seconds: float = 0.0
    cached: bool = True


class Precision(Protocol):
    """An allocation of bits to layers."""

    @property
    def bits(self) -> int:
        """The fewest bits that a layer may get, or the bits of most layers if uniform."""
        ...

    @property
    def inputs(self) -> bool:
        """Whether the allocation sets the bits of layers' inputs too."""
        ...

    @property
    def at_most(self) -> dict[str, int]:
        """Calibration images that it looks at, at most, by setting."""
        ...

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError if a setting does not fit the layers of the network."""

    def allocate(self, context: AllocationContext) -> Allocation:
        """Bits for every layer."""
        ...


@dataclass(frozen=True)
class Uniform:
    """The same bits for all layers, with exceptions.

    Attributes:
        bits: 1 ... 16.
        first_last_bits: bits of the first and the last layer in order of use; None: `bits`.
        overrides: bits of single layers by name.
    """

    bits: int
    first_last_bits: int | None
    overrides: Mapping[str, int]

    def __post_init__(self) -> None:
        ends = (
            {}
            if self.first_last_bits is None
            else {"precision.first_last_bits": self.first_last_bits}
        )
        check_bits({"bits": self.bits, **ends, **self.overrides})

    @property
    def inputs(self) -> bool:
        """False: only weights get bits here."""
        return False

    @property
    def at_most(self) -> dict[str, int]:
        """It looks at none."""
        return {}

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError if an override names no layer."""
        check_layers("precision.overrides", self.overrides, layers)

    def allocate(self, context: AllocationContext) -> Allocation:
        """Bits for every layer, without a search."""
        return Allocation(
            assign_bits(list(context.layers), self.bits, self.first_last_bits, self.overrides)
        )
