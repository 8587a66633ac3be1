"""Stage: the loss of every layer under plain rounding, at all widths. The same for every width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.solving.per_layer import for_each_layer
from pipelines.stages.solving.solve import FitGrid, LayerInput, float_inputs
from pipelines.store.artifacts import Artifact
from quant.methods import rtn


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
        return Artifact({}, for_each_layer(layers, self._losses, machine))

    def _losses(self, given: LayerInput) -> dict[str, float]:
        raw = given.problem()
        problem = raw.prepared(self.damping)
        grids = {b: given.grid(self.fit_grid, problem.W, b) for b in self.bits}
        return {
            str(b): float(raw.loss(rtn.quantize(problem, grid)).sum()) for b, grid in grids.items()
        }
