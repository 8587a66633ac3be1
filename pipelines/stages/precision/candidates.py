"""Candidate configurations: every layer solved at every bit width, and their evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from evaluation.evaluator import CollectOutputs
from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.stages.activations import grids_of
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.precision.allocate import AllocationContext
from pipelines.stages.precision.perturbations import Perturbation
from pipelines.stages.solving.quantize import shifted_mean
from pipelines.stages.solving.solve import as_weight, effort, float_inputs
from pipelines.store.artifacts import Artifact, Keyed
from quant.activations import input_place, prepared
from quant.ranges import TensorGrid


@dataclass(frozen=True)
class EvaluateConfiguration:
    """Stage: the task's metric of a network, and its distance from the float network."""

    ON_ALL_RANKS: ClassVar[bool] = True

    def run(
        self,
        module: Keyed[nn.Module],
        reference: Keyed[nn.Module],
        float_outputs: Artifact,
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Record: metric and agreement in percent, KL, on the evaluation images of `data`."""
        collect = CollectOutputs(data.value, module.value, reference.value)
        machine.test("evaluate bits", collect, data.value.test_dataloader())
        task, outputs = data.value, collect.outputs
        fidelity = task.fidelity(float_outputs.tensors, outputs)
        metric = task.metrics(outputs)[task.metric]
        chosen = {key: fidelity[key] for key in ("agreement", "kl")}
        return Artifact({}, {"metric": metric, **chosen})


class Candidates:
    """All layers solved at all bit widths, and evaluations of configurations of them.

    Attributes:
        perturbations: (layer, bits) -> the perturbation, and the key of its artifacts.
        grids: input grids by layer and bits; empty if inputs are not quantized.
        module: a copy of the float network to which perturbations can be applied.
        seconds, cached: total compute time, and whether all of it came from the store.
    """

    def __init__(
        self, context: AllocationContext, widths: Sequence[int], inputs: bool, images: int | None
    ) -> None:
        """Solve all layers.

        Args:
            context: networks, images and stages.
            widths: bit widths to solve at.
            inputs: whether to quantize the layers' inputs too.
            images: number of calibration images to evaluate configurations on; None: all.
        """
        self.context, self.widths = context, widths
        self.seconds, self.cached = 0.0, True
        self.grid_keys: dict[int, str] = {}  # key of the artifact that holds the grids, by bits
        self.grids = self._grids() if inputs else {}
        self.perturbations = self._solved()
        places = [input_place(context.layers[n]) for n in self.grids]
        self.module = prepared(context.network.module, places)
        data = context.images.value.calibrating(images)
        self.data = Keyed(data, data.outputs_key)
        self.reference = Keyed(context.network.module, context.network.key)
        self.float_outputs = self.count(
            context.store.run(
                Evaluate(), self.reference, Keyed(None, ""), self.data, context.machine
            )
        )

    @property
    def float_metric(self) -> float:
        """The float network's metric in percent, on the same images."""
        data = self.data.value
        return data.metrics(self.float_outputs.tensors)[data.metric]

    def figures(self, bits: dict[str, int]) -> dict[str, float]:
        """metric, agreement and kl of the network with these bits by layer; stored.

        Layers that are not named stay in floating point.
        """
        module = deepcopy(self.module)
        for choice in bits.items():
            self.perturbations[choice][0].apply(module)
        chosen = ",".join(self.perturbations[choice][1] for choice in bits.items())
        key = f"{self.context.network.key} {chosen}"
        stage, machine = EvaluateConfiguration(), self.context.machine
        evaluated = self.context.store.run(
            stage, Keyed(module, key), self.reference, self.float_outputs, self.data, machine
        )
        return dict(self.count(evaluated).record)

    def count(self, artifact: Artifact) -> Artifact:
        """Add the artifact's compute time to the total; returns the artifact."""
        self.seconds += artifact.seconds
        self.cached &= artifact.cached
        return artifact

    def _solved(self) -> dict[tuple[str, int], tuple[Perturbation, str]]:
        """Solve with the run's method, on inputs that do not depend on other layers' bits."""
        context, perturbations = self.context, {}
        stage = context.quantize
        kind = "centred" if stage.inputs == "sequential" else stage.inputs
        inputs = float_inputs(context.network, context.calibration, kind, context.importance)
        tasks = [(x, bits) for x in inputs.values() for bits in self.widths]
        with context.machine.screen.bar("solve at all bits", len(tasks)) as advance:
            solutions = context.store.run_each(
                stage.solve,
                [(Keyed(x, x.key), Keyed(bits, str(bits))) for x, bits in tasks],
                [effort(x.layer) for x, _ in tasks],
                advance,
            )
        for (x, bits), solution in zip(tasks, map(self.count, solutions), strict=True):
            layer = x.layer
            shifted = None
            if layer.norm and kind != "float":
                mean = context.calibration.tensors[f"mean/{layer.name}"]
                shifted = shifted_mean(context.network.module, layer, solution, mean, mean)
            grid = self.grids.get(layer.name, {}).get(bits)
            perturbation = Perturbation(layer, bits, as_weight(solution, layer), shifted, grid)
            inputs_key = f"/{self.grid_keys[bits]}" if grid is not None else ""
            perturbations[layer.name, bits] = perturbation, solution.key + inputs_key
        return perturbations

    def _grids(self) -> dict[str, dict[int, TensorGrid]]:
        context = self.context
        network: Keyed[nn.Module] = Keyed(context.network.module, context.network.key)
        layers = Keyed(context.layers, context.calibration.key)
        grids: dict[str, dict[int, TensorGrid]] = {}
        for bits in self.widths:
            stage = replace(context.activations, bits=bits, first_last_bits=bits, overrides={})
            found = self.count(
                context.store.run(stage, network, layers, context.images, context.machine)
            )
            for name, grid in grids_of(found).items():
                grids.setdefault(name, {})[bits] = grid
            self.grid_keys[bits] = found.key
        return grids
