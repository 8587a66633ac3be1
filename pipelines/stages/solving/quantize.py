"""Stage: quantize every layer. A solution is stored as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.solving.activation_cache import ActivationCache
from pipelines.stages.solving.sequential import SequentialInputs
from pipelines.stages.solving.solve import (
    LayerInput,
    SolveLayer,
    as_weight,
    effort,
    float_inputs,
    weights_of,
)
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from quant.layers import Layer, to_matrix

INPUTS = ("float", "centred", "sequential")


@dataclass(frozen=True, eq=False)
class QuantizedWeights:
    """The solutions of all layers.

    Attributes:
        solutions: stored codes and grids by layer name.
        inputs: what each solution was computed from.
        means: running means that changed with the weights, by state-dict name.
        collecting: seconds that it took to collect inputs between the solves.
        training: seconds that it took to train the rounding.
        key: of all solutions together.
    """

    solutions: Mapping[str, Artifact]
    inputs: Mapping[str, LayerInput]
    means: Mapping[str, Tensor]
    collecting: float
    training: float = 0.0

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
        """Seconds of all solves, without reading and writing, and of training."""
        return float(sum(s.record["seconds"] for s in self.solutions.values())) + self.training

    def applied_to(self, module: nn.Module) -> nn.Module:
        """A copy of the float network with the quantized weights."""
        quantized = deepcopy(module)
        for name, solution in self.solutions.items():
            put(quantized, self.inputs[name].layer, solution)
        quantized.load_state_dict({**quantized.state_dict(), **self.means})
        return quantized


def put(module: nn.Module, layer: Layer, solution: Artifact) -> None:
    """Overwrite one weight of `module`."""
    with torch.no_grad():
        module.get_parameter(layer.weight).copy_(as_weight(solution, layer))


def shifted_mean(
    module: nn.Module, layer: Layer, solution: Artifact, mean: Tensor, float_mean: Tensor
) -> Tensor:
    """The running mean behind a layer, moved by what quantization adds to the layer's mean output.

    That is Q m~ - W m for inputs of mean m [g, c] in the float network, m~ in the quantized one.
    """
    W = to_matrix(module.get_parameter(layer.weight).detach(), layer.groups).double()
    Q = weights_of(solution).double()
    shift = Q @ mean.double()[:, :, None] - W @ float_mean.double()[:, :, None]
    before = module.get_buffer(layer.norm)
    return (before + shift.flatten()).to(before.dtype)


@dataclass(frozen=True)
class QuantizeLayers:
    """Quantize the layers in their order of use.

    Attributes:
        solve: method, grid and damping.
        inputs: "float": Hessians of the float network's inputs (OBQ); the order of layers does not
            matter. "centred": of the same inputs without their mean, where a BatchNorm takes the
            output; what that adds to the mean output goes into the BatchNorm's running mean.
            "sequential": of the inputs that the already quantized layers give, with the weights
            moved first so that the float network's output is matched; centred likewise.
        positions: of an image that sequential sums run over; None: all.
        memory_gb: for images that wait between two layers, with sequential inputs; the others run
            from the start for every layer.
    """

    solve: SolveLayer
    inputs: str
    positions: int | None
    memory_gb: float

    def __post_init__(self) -> None:
        if self.memory_gb < 0:
            raise ValueError(f"quantize.memory_gb={self.memory_gb} must be at least 0")
        if self.inputs not in INPUTS:
            raise ValueError(f"quantize.inputs={self.inputs!r} must be one of {', '.join(INPUTS)}")

    def run(
        self,
        store: Store,
        network: Network,
        data: Keyed[ImageData],
        calibration: Artifact,
        bits: Mapping[str, int],
        machine: Machine,
        importance: Artifact | None = None,
    ) -> QuantizedWeights:
        """Solve, or fetch from the store, every layer; `importance` is of `LabelFreeHessian`."""
        solutions: dict[str, Artifact] = {}
        means: dict[str, Tensor] = {}
        collecting = 0.0
        inputs = float_inputs(network, calibration, self.inputs, importance)
        quantized = deepcopy(network.module)
        layers = {name: given.layer for name, given in inputs.items()}
        waiting = ActivationCache(network.module, quantized, layers, self.memory_gb)
        with machine.screen.bar("quantize", len(inputs)) as advance, closing(waiting):
            if self.inputs != "sequential":  # no layer waits for another
                found = store.run_each(
                    self.solve,
                    [
                        (Keyed(given, given.key), Keyed(bits[name], str(bits[name])))
                        for name, given in inputs.items()
                    ],
                    [effort(given.layer) for given in inputs.values()],
                    advance,
                )
                solutions = dict(zip(inputs, found, strict=True))
            for name, given in inputs.items():
                mean = float_mean = calibration.tensors[f"mean/{name}"]
                if self.inputs == "sequential":
                    stage = SequentialInputs(self.solve.damping, self.positions)
                    so_far = Keyed(quantized, ",".join(s.key for s in solutions.values()))
                    layer, there = Keyed(given.layer, name), Keyed(waiting, "")
                    moved = store.run(stage, network, so_far, data, layer, there, machine)
                    inputs[name] = given = stage.layer_input(given, moved)
                    collecting += moved.seconds
                    mean, float_mean = (moved.tensors[k] for k in ("mean", "float_mean"))
                    solutions[name] = store.run(
                        self.solve, Keyed(given, given.key), Keyed(bits[name], str(bits[name]))
                    )
                    advance(1)
                put(quantized, given.layer, solutions[name])
                norm = given.layer.norm
                if norm and self.inputs != "float":
                    means[norm] = shifted_mean(
                        network.module, given.layer, solutions[name], mean, float_mean
                    )
                    quantized.get_buffer(norm).copy_(means[norm])
        return QuantizedWeights(solutions, inputs, means, collecting)
