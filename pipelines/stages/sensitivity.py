"""Stage: which layers and columns mind quantization, at which bits, and how that clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipelines.artifacts import Artifact, Keyed
from pipelines.models.network import Network
from pipelines.stages.solve import FitGrid, float_inputs
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

    fit_grid: FitGrid
    damping: float
    predict_bits: Sequence[int]
    inputs: str

    def run(
        self,
        network: Network,
        calibration: Artifact,
        bits: Keyed[Mapping[str, int]],
        importance: Artifact | None = None,
    ) -> Artifact:
        """Tensors: "columns/<layer>" [g, c] and "heatmap/<layer>". Record: figures by layer."""
        tensors: dict[str, Tensor] = {}
        record = {}
        given_layers = float_inputs(network, calibration, self.inputs, importance)
        for name, given in given_layers.items():
            raw = given.problem()
            try:
                problem = raw.prepared(self.damping)
                S = sensitivity(problem, given.grid(self.fit_grid, problem.W, bits.value[name]))
            except Exception as err:
                err.add_note(f"in layer {name}")
                raise
            tensors[f"columns/{name}"] = S.sum(1)
            tensors[f"heatmap/{name}"] = heatmap(S, *PICTURE)
            grids = {b: given.grid(self.fit_grid, problem.W, b) for b in self.predict_bits}
            record[name] = {
                "sensitivity": float(S.double().sum()),
                "cluster": clustering(S),
                "predicted_loss": {
                    str(b): float(raw.loss(grid.round(problem.W)).sum())
                    for b, grid in grids.items()
                },
            }
        return Artifact(tensors, record)
