"""Stage: how many bits each layer gets."""

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
from quant.precision import assign_bits, check_bits


@dataclass(frozen=True, eq=False)
class AllocationContext:
    """What an allocation may look at: float network, calibration images, stages to come."""

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
        bits: of the weights, by layer.
        inputs: of the layers' inputs where the allocation decides that too; None: it does not.
        record: how it was found, for results.json; None: nothing was searched.
        seconds, cached: of the search.
    """

    bits: Mapping[str, int]
    inputs: Mapping[str, int] | None = None
    record: Mapping[str, Any] | None = None
    seconds: float = 0.0
    cached: bool = True


class Precision(Protocol):
    """Decides about bits."""

    @property
    def bits(self) -> int:
        """The fewest that a layer may get, or those that most layers get."""
        ...

    @property
    def inputs(self) -> bool:
        """Whether it decides about the layers' inputs too."""
        ...

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError where a setting does not fit the layers of the network."""

    def allocate(self, given: AllocationContext) -> Allocation:
        """Bits for every layer."""
        ...


@dataclass(frozen=True)
class Uniform:
    """The same bits for all layers, but for those named.

    Attributes:
        bits: 1 ... 16.
        first_last_bits: of the first and the last layer in their order of use; None: as all.
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
        """Those of weights alone."""
        return False

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError where an override names no layer."""
        check_names(self.overrides, layers)

    def allocate(self, given: AllocationContext) -> Allocation:
        """Nothing to search."""
        return Allocation(
            assign_bits(list(given.layers), self.bits, self.first_last_bits, self.overrides)
        )


def check_names(overrides: Mapping[str, int], layers: Sequence[str]) -> None:
    """Raise a ValueError for the first of the overrides that is none of the layers."""
    unknown = [name for name in overrides if name not in layers]
    if unknown:
        raise ValueError(
            f"precision.overrides names {unknown[0]!r}, which is no layer of this network. "
            f"Its layers: {', '.join(list(layers)[:5])}, ... ({len(layers)} in all)"
        )
