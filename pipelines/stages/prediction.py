"""Stage: the loss of every layer under plain rounding, at all widths. The same for every width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pipelines.artifacts import Artifact
from pipelines.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.solve import FitGrid, LayerInput, effort, float_inputs
from pipelines.threads import solving
from quant.methods import rtn

Found = TypeVar("Found")


@dataclass(frozen=True)
class PredictLosses:
    """What a layer would lose if it were rounded to nearest.

    Attributes:
        fit_grid: (W [g, r, c], bits) -> Grid.
        damping: fraction of the mean Hessian diagonal added to that diagonal.
        bits: each of these widths.
        inputs: those that the layers will be solved on, see `QuantizeLayers`.
    """

    TOGETHER: ClassVar[bool] = True

    fit_grid: FitGrid
    damping: float
    bits: Sequence[int]
    inputs: str

    def run(
        self,
        network: Network,
        calibration: Artifact,
        machine: Machine,
        importance: Artifact | None = None,
    ) -> Artifact:
        """Record: {layer: {bits: loss}}."""
        layers = float_inputs(network, calibration, self.inputs, importance)
        return Artifact({}, of_each(layers, self._losses, machine))

    def _losses(self, given: LayerInput) -> dict[str, float]:
        raw = given.problem()
        problem = raw.prepared(self.damping)
        grids = {b: given.grid(self.fit_grid, problem.W, b) for b in self.bits}
        return {
            str(b): float(raw.loss(rtn.quantize(problem, grid)).sum()) for b, grid in grids.items()
        }


def of_each(
    layers: Mapping[str, LayerInput], work: Callable[[LayerInput], Found], machine: Machine
) -> dict[str, Found]:
    """work(layer) of each, by name; where there are several processes, each one does its share."""

    def found(given: LayerInput) -> Found:
        try:
            with solving(given.layer):
                return work(given)
        except Exception as err:
            err.add_note(f"in layer {given.layer.name}")
            raise

    names = list(layers)
    mine = machine.ranks.mine([effort(given.layer) for given in layers.values()])
    share = {names[i]: found(layers[names[i]]) for i in mine}
    every = {k: v for part in machine.ranks.gather(share) for k, v in part.items()}
    return {name: every[name] for name in names}
