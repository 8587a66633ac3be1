"""Stage: quantize the weights layer by layer; every solution is stored at once."""

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
from pipelines.store import fingerprint
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from quant.layers import Layer, to_matrix

INPUTS = ("float", "centred", "sequential")


@dataclass(frozen=True, eq=False)
class QuantizedWeights:
    """The solutions of all layers.

    Attributes:
        solutions: stored codes and grids by layer name.
        inputs: problem that each solution was computed from, by layer name.
        means: running means that changed with the weights, by state-dict name.
        collecting: seconds spent on collecting inputs between the solves.
        training: seconds spent on training the rounding.
    """

    solutions: Mapping[str, Artifact]
    inputs: Mapping[str, LayerInput]
    means: Mapping[str, Tensor]
    collecting: float
    training: float = 0.0

    @property
    def key(self) -> str:
        """The keys of all solutions, joined."""
        return ",".join(solution.key for solution in self.solutions.values())

    @property
    def cached(self) -> bool:
        """Whether every solution came from the store."""
        return all(solution.cached for solution in self.solutions.values())

    @property
    def seconds(self) -> float:
        """Time of all solves, without I/O, and of the rounding training."""
        return float(sum(s.record["seconds"] for s in self.solutions.values())) + self.training

    def applied_to(self, module: nn.Module, *, alone: bool = False) -> nn.Module:
        """A copy of the float network with the quantized weights, and the means that they moved.

        With `alone`, the running means stay those of the float network.
        """
        quantized = deepcopy(module)
        for name, solution in self.solutions.items():
            put(quantized, self.inputs[name].layer, solution)
        if not alone:
            quantized.load_state_dict({**quantized.state_dict(), **self.means})
        return quantized


def put(module: nn.Module, layer: Layer, solution: Artifact) -> None:
    """Overwrite a layer's weight in `module` with the quantized one."""
    with torch.no_grad():
        module.get_parameter(layer.weight).copy_(as_weight(solution, layer))


def shifted_mean(
    module: nn.Module, layer: Layer, solution: Artifact, mean: Tensor, float_mean: Tensor
) -> Tensor:
    """Running mean of the BatchNorm behind a layer, shifted by the change of the mean output.

    The shift is Q m~ - W m, with the mean input m [g, c] (`float_mean`) in the float network and m~
    (`mean`) in the quantized one.
    """
    W = to_matrix(module.get_parameter(layer.weight).detach(), layer.groups).double()
    Q = weights_of(solution).double()
    shift = Q @ mean.double()[:, :, None] - W @ float_mean.double()[:, :, None]
    before = module.get_buffer(layer.norm)
    return (before + shift.flatten()).to(before.dtype)


@dataclass(frozen=True)
class QuantizeLayers:
    """Quantize the layers in order of use.

    Attributes:
        solve: method, grid and damping.
        inputs: "float": Hessians of the float network's inputs (OBQ); the order of layers does not
            matter. "centred": the same inputs minus their mean, for layers followed by a BatchNorm,
            whose running mean absorbs the change of the mean output. "sequential": inputs from the
            already quantized layers, with the weights first adjusted to match the float network's
            output; also centred.
        positions_per_image: positions per image in the sums of sequential inputs; None: all.
        cache_gb: memory for forward passes paused between two layers, in GB, with sequential
            inputs; batches that do not fit rerun from the start for every layer.
    """

    solve: SolveLayer
    inputs: str
    positions_per_image: int | None
    cache_gb: float

    def __post_init__(self) -> None:
        if self.solve.damping == 0:
            raise ValueError(
                "damping=0 must lie in (0, 1): without any, a Hessian of few images has no "
                "inverse. 0.0001 changes next to nothing"
            )
        if self.cache_gb < 0:
            raise ValueError(f"quantize.cache_gb={self.cache_gb} must be at least 0")
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
        """Solve every layer, or load its solution; `importance` comes from `LabelFreeHessian`."""
        solutions: dict[str, Artifact] = {}
        means: dict[str, Tensor] = {}
        collecting, changed = 0.0, ""  # a digest of all that `quantized` has got so far
        inputs = float_inputs(network, calibration, self.inputs, importance)
        quantized = deepcopy(network.module)
        layers = {name: layer_input.layer for name, layer_input in inputs.items()}
        cache = ActivationCache(network.module, quantized, layers, self.cache_gb)
        with machine.screen.bar("quantize", len(inputs)) as advance, closing(cache):
            if self.inputs != "sequential":  # the layers are independent
                solved = store.run_each(
                    self.solve,
                    [
                        (Keyed(x, x.key), Keyed(bits[name], str(bits[name])))
                        for name, x in inputs.items()
                    ],
                    [effort(x.layer) for x in inputs.values()],
                    advance,
                )
                solutions = dict(zip(inputs, solved, strict=True))
            for name, x in inputs.items():
                layer = x.layer
                mean = float_mean = calibration.tensors[f"mean/{name}"]
                if self.inputs == "sequential":
                    stage = SequentialInputs(self.solve.damping, self.positions_per_image)
                    keys = ",".join(solution.key for solution in solutions.values())
                    so_far = Keyed(quantized, f"{network.key} {keys} {changed}")
                    one = Keyed(layer, f"{name} {fingerprint.content(layer)}")
                    collected = store.run(
                        stage, network, so_far, data, one, Keyed(cache, ""), machine
                    )
                    inputs[name] = x = stage.layer_input(x, collected)
                    collecting += collected.seconds
                    mean, float_mean = (collected.tensors[k] for k in ("mean", "float_mean"))
                    solutions[name] = store.run(
                        self.solve, Keyed(x, x.key), Keyed(bits[name], str(bits[name]))
                    )
                    advance(1)
                put(quantized, layer, solutions[name])
                entries = [layer.weight]
                norm = layer.norm
                if norm and self.inputs != "float":
                    means[norm] = shifted_mean(
                        network.module, layer, solutions[name], mean, float_mean
                    )
                    quantized.get_buffer(norm).copy_(means[norm])
                    entries.append(norm)
                state = quantized.state_dict()
                changed = fingerprint.content([changed, {e: state[e] for e in entries}])
        return QuantizedWeights(solutions, inputs, means, collecting)
