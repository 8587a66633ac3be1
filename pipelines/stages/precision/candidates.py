"""Configurations to choose from: every layer at every width, and what a choice does."""

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
    """Stage: the task's metric of a network, and how far it is from the float network."""

    TOGETHER: ClassVar[bool] = True

    def run(
        self,
        module: Keyed[nn.Module],
        reference: Keyed[nn.Module],
        float_outputs: Artifact,
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Record: metric and agreement in percent, KL, on the images that `data` evaluates on."""
        collect = CollectOutputs(data.value, module.value, reference.value)
        machine.test("try", collect, data.value.test_dataloader())
        task, outputs = data.value, collect.outputs
        found = task.fidelity(float_outputs.tensors, outputs)
        metric = task.metrics(outputs)[task.metric]
        return Artifact({}, {"metric": metric, "agreement": found["agreement"], "kl": found["kl"]})


class Candidates:
    """All layers at all widths, solved, and the configurations that were tried with them.

    Attributes:
        changes: (layer, bits) -> the change, and the key of what it is made of.
        grids: of inputs, by layer and bits; empty where inputs are not to change.
        module: a copy of the float network that the changes can be made in.
        seconds, cached: of all that was computed.
    """

    def __init__(
        self, given: AllocationContext, widths: Sequence[int], inputs: bool, images: int | None
    ) -> None:
        """`inputs`: quantize them too; `images`: how many to try configurations on."""
        self.given, self.widths = given, widths
        self.seconds, self.cached = 0.0, True
        self.grid_keys: dict[int, str] = {}  # of the artifacts that the grids are from, by bits
        self.grids = self._grids() if inputs else {}
        self.changes = self._solved()
        places = [input_place(given.layers[n]) for n in self.grids]
        self.module = prepared(given.network.module, places)
        data = given.images.value.calibrating(images)
        self.data = Keyed(data, data.evaluation_key)
        self.reference = Keyed(given.network.module, given.network.key)
        self.float_outputs = self.ran(
            given.store.run(Evaluate(), self.reference, Keyed(None, ""), self.data, given.machine)
        )

    @property
    def float_metric(self) -> float:
        """The float network's figure, in percent, on the same images."""
        data = self.data.value
        return data.metrics(self.float_outputs.tensors)[data.metric]

    def figures(self, bits: dict[str, int]) -> dict[str, float]:
        """metric, agreement and kl of the network with these bits; tried once, then stored.

        A layer that is not named stays as it is in the float network.
        """
        module = deepcopy(self.module)
        for choice in bits.items():
            self.changes[choice][0].make(module)
        chosen = ",".join(self.changes[choice][1] for choice in bits.items())
        key = f"{self.given.network.key} {chosen}"
        stage, machine = EvaluateConfiguration(), self.given.machine
        found = self.given.store.run(
            stage, Keyed(module, key), self.reference, self.float_outputs, self.data, machine
        )
        return dict(self.ran(found).record)

    def ran(self, artifact: Artifact) -> Artifact:
        """Count what it took."""
        self.seconds += artifact.seconds
        self.cached &= artifact.cached
        return artifact

    def _solved(self) -> dict[tuple[str, int], tuple[Perturbation, str]]:
        """By the method of the run, on inputs that do not depend on other layers' bits."""
        given, found = self.given, {}
        stage = given.quantize
        kind = "centred" if stage.inputs == "sequential" else stage.inputs
        inputs = float_inputs(given.network, given.calibration, kind, given.importance)
        wanted = [(given_layer, bits) for given_layer in inputs.values() for bits in self.widths]
        with given.machine.screen.bar("solve at all widths", len(wanted)) as advance:
            solutions = given.store.run_each(
                stage.solve,
                [(Keyed(i, i.key), Keyed(bits, str(bits))) for i, bits in wanted],
                [effort(i.layer) for i, _ in wanted],
                advance,
            )
        for (layer_input, bits), solution in zip(wanted, map(self.ran, solutions), strict=True):
            layer = layer_input.layer
            moved = None
            if layer.norm and kind != "float":
                mean = given.calibration.tensors[f"mean/{layer.name}"]
                moved = shifted_mean(given.network.module, layer, solution, mean, mean)
            grid = self.grids.get(layer.name, {}).get(bits)
            change = Perturbation(layer, bits, as_weight(solution, layer), moved, grid)
            inputs_key = f"/{self.grid_keys[bits]}" if grid is not None else ""
            found[layer.name, bits] = change, solution.key + inputs_key
        return found

    def _grids(self) -> dict[str, dict[int, TensorGrid]]:
        given = self.given
        network: Keyed[nn.Module] = Keyed(given.network.module, given.network.key)
        layers = Keyed(given.layers, given.calibration.key)
        grids: dict[str, dict[int, TensorGrid]] = {}
        for bits in self.widths:
            stage = replace(given.activations, bits=bits, first_last_bits=bits, overrides={})
            found = self.ran(given.store.run(stage, network, layers, given.images, given.machine))
            for name, grid in grids_of(found).items():
                grids.setdefault(name, {})[bits] = grid
            self.grid_keys[bits] = found.key
        return grids
