"""Stage: which layers and columns mind quantization at the run's bits, and how that clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.loss_prediction import PredictLosses
from pipelines.stages.solving.per_layer import for_each_layer
from pipelines.stages.solving.solve import FitGrid, LayerInput, float_inputs
from pipelines.store.artifacts import Artifact, Keyed
from quant.sensitivity import clustering, heatmap, sensitivity

PICTURE = (128, 256)  # rows and columns of a stored heatmap, at most


@dataclass(frozen=True)
class Sensitivity:
    """S_ij = (w_ij - Q(w_ij))^2 / [H^-1]_jj of every layer.

    Attributes:
        fit_grid: (W [g, r, c], bits) -> Grid.
        damping: fraction of the mean Hessian diagonal added to that diagonal.
        predict_bits: bits at which `prediction` predicts the loss of every layer.
        inputs: those that the layers will be solved on, see `QuantizeLayers`.
    """

    TOGETHER: ClassVar[bool] = True

    fit_grid: FitGrid
    damping: float
    predict_bits: Sequence[int]
    inputs: str

    @property
    def prediction(self) -> PredictLosses:
        """The stage beside this one whose result is the same at all bits."""
        return PredictLosses(self.fit_grid, self.damping, self.predict_bits, self.inputs)

    def run(
        self,
        network: Network,
        calibration: Artifact,
        bits: Keyed[Mapping[str, int]],
        machine: Machine,
        importance: Artifact | None = None,
    ) -> Artifact:
        """Tensors: "columns/<layer>" [g, c] and "heatmap/<layer>". Record: figures by layer."""

        def judged(given: LayerInput) -> tuple[dict[str, Tensor], dict[str, Any]]:
            problem = given.problem().prepared(self.damping)
            grid = given.grid(self.fit_grid, problem.W, bits.value[given.layer.name])
            S = sensitivity(problem, grid)
            figures = {"sensitivity": float(S.double().sum()), "cluster": clustering(S)}
            return {"columns": S.sum(1), "heatmap": heatmap(S, *PICTURE)}, figures

        layers = float_inputs(network, calibration, self.inputs, importance)
        found = for_each_layer(layers, judged, machine)
        tensors = {
            f"{kind}/{name}": t for name, (kinds, _) in found.items() for kind, t in kinds.items()
        }
        return Artifact(tensors, {name: figures for name, (_, figures) in found.items()})
