"""Stage: quantize every layer. A solution is stored as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from evaluation.images import ImageData
from pipelines.artifacts import Artifact, Keyed
from pipelines.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.sequential import SequentialInputs
from pipelines.stages.solve import LayerInput, SolveLayer, as_weight, float_inputs
from pipelines.store import Store
from quant.layers import Layer


@dataclass(frozen=True, eq=False)
class QuantizedWeights:
    """The solutions of all layers.

    Attributes:
        solutions: stored codes and grids by layer name.
        inputs: what each solution was computed from.
        key: of all solutions together.
    """

    solutions: Mapping[str, Artifact]
    inputs: Mapping[str, LayerInput]

    @property
    def key(self) -> str:
        """The keys of all solutions."""
        return ",".join(solution.key for solution in self.solutions.values())

    @property
    def cached(self) -> bool:
        """Every layer was in the store already."""
        return all(solution.cached for solution in self.solutions.values())

    @property
    def seconds(self) -> float:
        """Seconds of all solves, without reading and writing."""
        return float(sum(s.record["seconds"] for s in self.solutions.values()))

    def applied_to(self, module: nn.Module) -> nn.Module:
        """A copy of the float network with the quantized weights."""
        quantized = deepcopy(module)
        for name, solution in self.solutions.items():
            put(quantized, self.inputs[name].layer, solution)
        return quantized


def put(module: nn.Module, layer: Layer, solution: Artifact) -> None:
    """Overwrite one weight of `module`."""
    with torch.no_grad():
        module.get_parameter(layer.weight).copy_(as_weight(solution, layer))


@dataclass(frozen=True)
class QuantizeLayers:
    """Quantize the layers in their order of use.

    Attributes:
        solve: method, grid and damping.
        inputs: "float": Hessians of the float network's inputs (OBQ); the order of layers does not
            matter. "sequential": of the inputs that the already quantized layers give, with the
            weights moved first so that the float network's output is matched.
    """

    solve: SolveLayer
    inputs: str

    def __post_init__(self) -> None:
        if self.inputs not in ("float", "sequential"):
            raise ValueError(f"quantize.inputs={self.inputs!r} must be float or sequential")

    def run(
        self,
        store: Store,
        network: Network,
        data: Keyed[ImageData],
        calibration: Artifact,
        bits: Mapping[str, int],
        machine: Machine,
    ) -> QuantizedWeights:
        """Solve, or fetch from the store, every layer."""
        solutions: dict[str, Artifact] = {}
        inputs = float_inputs(network, calibration)
        quantized = deepcopy(network.module)
        with machine.screen.bar("quantize", len(inputs)) as advance:
            for name, given in inputs.items():
                if self.inputs == "sequential":
                    stage = SequentialInputs(self.solve.damping)
                    so_far = Keyed(quantized, ",".join(s.key for s in solutions.values()))
                    moved = store.run(
                        stage, network, so_far, data, Keyed(given.layer, name), machine
                    )
                    inputs[name] = given = stage.layer_input(given.layer, moved)
                solutions[name] = store.run(
                    self.solve, Keyed(given, given.key), Keyed(bits[name], str(bits[name]))
                )
                put(quantized, given.layer, solutions[name])
                advance(1)
        return QuantizedWeights(solutions, inputs)
