"""Stage: which layers and columns mind quantization, at which bits, and how that clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pipelines.artifacts import Artifact, Keyed
from pipelines.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.solve import FitGrid, LayerInput, effort, float_inputs
from pipelines.threads import solving
from quant.sensitivity import clustering, heatmap, sensitivity

PICTURE = (128, 256)  # rows and columns of a stored heatmap, at most


@dataclass(frozen=True)
class Sensitivity:
    """S_ij = (w_ij - Q(w_ij))^2 / [H^-1]_jj of every layer.

    Attributes:
        fit_grid: (W [g, r, c], bits) -> Grid.
        damping: fraction of the mean Hessian diagonal added to that diagonal.
        predict_bits: bits at which the loss of every layer is predicted.
        inputs: those that the layers will be solved on, see `QuantizeLayers`.
    """

    TOGETHER: ClassVar[bool] = True

    fit_grid: FitGrid
    damping: float
    predict_bits: Sequence[int]
    inputs: str

    def run(
        self,
        network: Network,
        calibration: Artifact,
        bits: Keyed[Mapping[str, int]],
        machine: Machine,
        importance: Artifact | None = None,
    ) -> Artifact:
        """Tensors: "columns/<layer>" [g, c] and "heatmap/<layer>". Record: figures by layer."""
        layers = float_inputs(network, calibration, self.inputs, importance)
        names = list(layers)
        mine = machine.ranks.mine([effort(given.layer) for given in layers.values()])
        share = {names[i]: self._layer(layers[names[i]], bits.value[names[i]]) for i in mine}
        found = {k: v for part in machine.ranks.gather(share) for k, v in part.items()}
        tensors = {f"{kind}/{name}": t for name in names for kind, t in found[name][0].items()}
        return Artifact(tensors, {name: found[name][1] for name in names})

    def _layer(self, given: LayerInput, bits: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors by kind, figures) of one layer."""
        with solving(given.layer):
            return self._judged(given, bits)

    def _judged(self, given: LayerInput, bits: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        raw = given.problem()
        try:
            problem = raw.prepared(self.damping)
            S = sensitivity(problem, given.grid(self.fit_grid, problem.W, bits))
        except Exception as err:
            err.add_note(f"in layer {given.layer.name}")
            raise
        grids = {b: given.grid(self.fit_grid, problem.W, b) for b in self.predict_bits}
        figures = {
            "sensitivity": float(S.double().sum()),
            "cluster": clustering(S),
            "predicted_loss": {
                str(b): float(raw.loss(grid.round(problem.W)).sum()) for b, grid in grids.items()
            },
        }
        return {"columns": S.sum(1), "heatmap": heatmap(S, *PICTURE)}, figures
