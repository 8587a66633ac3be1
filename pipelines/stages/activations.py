"""Stage: grids for the inputs of layers, from the values that they take on calibration images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import ClassVar

from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.artifacts import Artifact, Keyed
from pipelines.machine import Machine
from pipelines.stages.forward import Forward
from quant.activations import inserted, reachable, watching
from quant.layers import Layer
from quant.precision import check_bits, spread
from quant.ranges import SEARCHES, TensorGrid, fit


@dataclass(frozen=True)
class QuantizeActivations:
    """One grid a layer input, fitted after the weights are quantized and statistics corrected.

    Attributes:
        bits: of the inputs of all layers; None leaves activations in floating point.
        ends_bits: of the inputs of the first and the last layer, in their order of use.
        overrides: bits of single layers by name.
        symmetric: 0 in the middle of the codes.
        search: "minmax", "percentile" or "mse".
        percentile: of the values that "percentile" keeps on either side.
        images: calibration images to look at, at most.
    """

    TOGETHER: ClassVar[bool] = True

    bits: int | None
    ends_bits: int
    overrides: Mapping[str, int] = field(hash=False)
    symmetric: bool
    search: str
    percentile: float
    images: int

    def __post_init__(self) -> None:
        named = {"activations.ends_bits": self.ends_bits, **self.overrides}
        check_bits(named if self.bits is None else {"act_bits": self.bits, **named})
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
        """Tensors: scale and zero of every layer's input. Record: bits, and what was left out."""
        module, named = quantized.value, layers.value
        loader = data.value.calibration_loader(first=self.images)
        example, _ = next(iter(loader))
        left_out = reachable(module, named, example[:2])
        bits = self.bits_of([name for name in named if name not in left_out])
        with watching(module, {name: named[name] for name in bits}) as seen:
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
        return Artifact(tensors, {"bits": bits, "left_out": left_out})

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
        return spread(names, self.bits, self.ends_bits, self.overrides)


def with_activations(
    module: nn.Module, layers: Mapping[str, Layer], activations: Artifact
) -> nn.Module:
    """A copy of `module` whose layers' inputs are quantized."""
    return inserted(module, layers, grids_of(activations))


def grids_of(activations: Artifact) -> dict[str, TensorGrid]:
    """The grid of every layer's input that is quantized, by layer."""
    return {
        name: TensorGrid(
            activations.tensors[f"{name}.act_scale"], activations.tensors[f"{name}.act_zero"], bits
        )
        for name, bits in activations.record["bits"].items()
    }
