"""Stage: grids for activations, from the values that they take on calibration images."""

from __future__ import annotations

from collections.abc import Mapping
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
from quant.layers import Layer
from quant.placement import PLACEMENTS, Plan
from quant.precision import assign_bits, check_bits
from quant.ranges import SEARCHES, TensorGrid, fit


@dataclass(frozen=True)
class QuantizeActivations:
    """One grid a tensor, fitted after the weights are quantized and statistics corrected.

    Attributes:
        placement: "inputs": tensors that enter layers, at their doors; "outputs": those that enter
            or leave layers, where they are made, so that residual sums take quantized numbers too.
        bits: of the inputs of all layers; None leaves activations in floating point.
        first_last_bits: of the inputs of the first and the last layer, in their order of use.
        overrides: bits of single layers' inputs by name; a tensor that several layers take has the
            most that one of them asks for.
        symmetric: 0 in the middle of the codes.
        search: "minmax", "percentile" or "mse".
        percentile: of the values that "percentile" keeps on either side.
        images: calibration images to look at, at most.
    """

    TOGETHER: ClassVar[bool] = True

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
        if self.images < 1:
            raise ValueError(f"activations.images={self.images} must be at least 1")

    def run(
        self,
        quantized: Keyed[nn.Module],
        layers: Keyed[Mapping[str, Layer]],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: scale and zero by place. Record: bits by layer, places, what was left out."""
        module, named = quantized.value, layers.value
        loader = data.value.calibration_loader(first=self.images)
        example, _ = next(iter(loader))
        plan = PLACEMENTS[self.placement](module, named, example[:2])
        wanted = self.bits_of([name for name in named if name in plan.feeds])
        bits = self.bits_at(plan, wanted)
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
                "bits": {n: max(bits[place] for place in plan.feeds[n]) for n in wanted},
                "places": {
                    name: {"module": place.module, "behind": place.behind, "bits": bits[name]}
                    for name, place in plan.places.items()
                },
                "left_out": plan.left_out,
            },
        )

    def with_bits(self, inputs: Mapping[str, int] | None) -> QuantizeActivations:
        """The same, with these bits for the layers' inputs if they are given."""
        if not inputs:
            return self
        return replace(self, bits=max(inputs.values()), overrides={**inputs, **self.overrides})

    def bits_of(self, names: list[str]) -> dict[str, int]:
        """Bits of each of the layers, which are in their order of use.

        Raises:
            ValueError: an override names none of them.
        """
        assert self.bits is not None  # the chain does not run this stage without
        unknown = [name for name in self.overrides if name not in names]
        if unknown:
            raise ValueError(
                f"activations.overrides names {unknown[0]!r}, whose input cannot be quantized or "
                f"which is no layer of this network. Its layers: {', '.join(names[:5])}, ..."
            )
        return assign_bits(names, self.bits, self.first_last_bits, self.overrides)

    def bits_at(self, plan: Plan, wanted: Mapping[str, int]) -> dict[str, int]:
        """Bits of each place: the most that a layer wants which it feeds; `bits` if it feeds none.

        Args:
            plan: the places.
            wanted: bits of every layer's input.
        """
        assert self.bits is not None  # as above
        asked: dict[str, list[int]] = {place: [] for place in plan.places}
        for name, b in wanted.items():
            for place in plan.feeds[name]:
                asked[place].append(b)
        return {place: max(found, default=self.bits) for place, found in asked.items()}


def with_activations(module: nn.Module, activations: Artifact) -> nn.Module:
    """A copy of `module` whose activations are quantized."""
    return with_quantizers(module, places_of(activations), grids_of(activations))


def places_of(activations: Artifact) -> dict[str, Place]:
    """Where the quantizers are, by the names of their grids."""
    recorded = activations.record["places"]
    return {name: Place(place["module"], place["behind"]) for name, place in recorded.items()}


def grids_of(activations: Artifact) -> dict[str, TensorGrid]:
    """The grids by place; with placement "inputs", by layer."""
    found = activations.tensors
    return {
        name: TensorGrid(found[f"{name}.act_scale"], found[f"{name}.act_zero"], place["bits"])
        for name, place in activations.record["places"].items()
    }
