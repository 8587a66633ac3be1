"""Stage: fit grids for activations to their values on calibration images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import ClassVar

from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.stages.forward import Forward
from pipelines.store.artifacts import Artifact, Keyed
from quant.activations import Place, observing, with_quantizers
from quant.grid import ONE_BIT
from quant.layers import Layer
from quant.placement import PLACEMENTS, Plan
from quant.precision import assign_bits, check_bits, check_layers
from quant.ranges import SEARCHES, TensorGrid, fit


@dataclass(frozen=True)
class QuantizeActivations:
    """One grid per tensor, fitted after weights are quantized and statistics corrected.

    Attributes:
        placement: "inputs": tensors that enter layers, quantized at each layer's input; "outputs":
            tensors that enter or leave layers, quantized where they are computed, so that residual
            additions take quantized values too.
        bits: bits of all layers' inputs; None leaves activations in floating point.
        first_last_bits: bits of the inputs of the first and the last layer, in order of use.
        overrides: bits of single layers' inputs by name; a tensor that enters several layers gets
            the maximum.
        symmetric: put 0 in the middle of the codes.
        search: "minmax", "percentile" or "mse".
        percentile: percentile at which "percentile" clips, on either side.
        images: maximum number of calibration images.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    placement: str
    bits: int | None
    first_last_bits: int
    overrides: Mapping[str, int] = field(hash=False)
    symmetric: bool
    search: str
    percentile: float
    images: int

    def __post_init__(self) -> None:
        named = {"activations.first_last_bits": self.first_last_bits, **self.overrides}
        check_bits(named if self.bits is None else {"act_bits": self.bits, **named})
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f"activations.placement={self.placement} must be one of {', '.join(PLACEMENTS)}"
            )
        if self.search not in SEARCHES:
            raise ValueError(f"activations.search={self.search} must be one of {SEARCHES}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"activations.percentile={self.percentile} must lie in (50, 100]")
        widths = [self.bits, self.first_last_bits, *self.overrides.values()]
        if self.symmetric and self.bits is not None and 1 in widths:
            raise ValueError(f"activations.{ONE_BIT}")
        if self.images < 1:
            raise ValueError(f"activations.images={self.images} must be at least 1")

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError where an override names no layer."""
        check_layers("activations.overrides", self.overrides, layers)

    def run(
        self,
        quantized: Keyed[nn.Module],
        layers: Keyed[Mapping[str, Layer]],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: scale and zero by place. Record: bits by layer, places, what is not quantized.

        Args:
            quantized: network with quantized weights.
            layers: its quantized layers, by name.
            data: calibration images.
            machine: runs the network.
        """
        module = quantized.value
        loader = data.value.calibration_loader(first=self.images)
        example, _ = next(iter(loader))
        plan = PLACEMENTS[self.placement](module, layers.value, example[:2])
        layer_bits = self.bits_of([name for name in layers.value if name in plan.feeds])
        bits = self.bits_at(plan, layer_bits)
        with observing(module, plan.places) as seen:
            machine.predict("activation ranges", Forward(module), loader)
        tensors: dict[str, Tensor] = {}
        for name, b in bits.items():
            grid = fit(
                reduce(add, machine.ranks.gather(seen[name])),
                b,
                symmetric=self.symmetric,
                search=self.search,
                percentile=self.percentile,
            )
            tensors |= {f"{name}.act_scale": grid.scale, f"{name}.act_zero": grid.zero}
        return Artifact(
            tensors,
            {
                "bits": {n: max(bits[place] for place in plan.feeds[n]) for n in layer_bits},
                "places": {
                    name: {"module": place.module, "behind": place.behind, "bits": bits[name]}
                    for name, place in plan.places.items()
                },
                "left_out": plan.left_out,
            },
        )

    def with_bits(self, inputs: Mapping[str, int] | None) -> QuantizeActivations:
        """This stage with these bits for the layers' inputs, by name; unchanged for None."""
        if not inputs:
            return self
        return replace(self, bits=max(inputs.values()), overrides={**inputs, **self.overrides})

    def bits_of(self, names: list[str]) -> dict[str, int]:
        """Bits of each layer's input; `names` in order of use.

        Raises:
            ValueError: an override names no such layer.
        """
        assert self.bits is not None  # else the chain skips this stage
        unknown = [name for name in self.overrides if name not in names]
        if unknown:
            raise ValueError(
                f"activations.overrides names {unknown[0]!r}, whose input cannot be quantized. "
                f"Layers whose input can: {', '.join(names[:5])}, ..."
            )
        return assign_bits(names, self.bits, self.first_last_bits, self.overrides)

    def bits_at(self, plan: Plan, layer_bits: Mapping[str, int]) -> dict[str, int]:
        """Bits of each place: the maximum over the layers that it feeds; `bits` if it feeds none.

        Args:
            plan: places of the quantizers, and the places that feed each layer.
            layer_bits: bits of every layer's input, by name.
        """
        assert self.bits is not None  # else the chain skips this stage
        fed: dict[str, list[int]] = {place: [] for place in plan.places}
        for name, b in layer_bits.items():
            for place in plan.feeds[name]:
                fed[place].append(b)
        return {place: max(found, default=self.bits) for place, found in fed.items()}


def with_activations(module: nn.Module, activations: Artifact) -> nn.Module:
    """A copy of `module` whose activations are quantized."""
    return with_quantizers(module, places_of(activations), grids_of(activations))


def places_of(activations: Artifact) -> dict[str, Place]:
    """Places of the quantizers, by name of the grid."""
    recorded = activations.record["places"]
    return {name: Place(place["module"], place["behind"]) for name, place in recorded.items()}


def grids_of(activations: Artifact) -> dict[str, TensorGrid]:
    """The grids by place; with placement "inputs", by layer."""
    tensors = activations.tensors
    return {
        name: TensorGrid(tensors[f"{name}.act_scale"], tensors[f"{name}.act_zero"], place["bits"])
        for name, place in activations.record["places"].items()
    }
