"""The solve of one layer; the quantize and the baseline stage share its stored results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evaluation import samples
from pipelines.machine.stopwatch import timed
from pipelines.machine.threads import solving
from pipelines.models.network import Network
from pipelines.stages.calibrate import hessian_of, layers_of
from pipelines.store.artifacts import Artifact, Keyed
from quant.grid import Grid
from quant.layers import Layer, from_matrix, to_matrix
from quant.methods import rtn
from quant.on_grid import check_on_grid
from quant.packing import pack, unpack
from quant.problem import LayerProblem

FitGrid = Callable[..., Grid]


def needs_importance(fit_grid: FitGrid) -> bool:
    """Whether grids are fitted with an importance of every weight."""
    return bool(getattr(fit_grid, "keywords", {}).get("search") == "hmse")


@dataclass(frozen=True, eq=False)
class LayerInput:
    """A layer to solve.

    Attributes:
        layer: name and shape of the layer.
        problem: returns W and H; only called if the solution is not stored yet.
        key: store key of everything that W and H depend on, and of `rows`.
        rows: output rows of every group to solve; None for all. The grid is fitted to all rows.
        importance: returns the importance of every weight [g, r, c], for grids that use it.
    """

    layer: Layer
    problem: Callable[[], LayerProblem]
    key: str
    rows: Tensor | None = None
    importance: Callable[[], Tensor] | None = None

    def grid(self, fit: FitGrid, W: Tensor, bits: int) -> Grid:
        """Fit the grid to W [g, r, c], all rows of this layer."""
        return fit(W, bits, importance=self.importance()) if self.importance else fit(W, bits)

    def of_rows(self, count: int) -> LayerInput:
        """This layer with `count` evenly spaced rows of every group."""
        if count >= self.layer.rows:
            return self
        index = evenly(count, self.layer.rows)
        return replace(self, key=f"{self.key}/rows={count}", rows=index)


def effort(layer: Layer) -> float:
    """Relative cost of a layer's inverse Hessian and solve, for load balancing."""
    return float(layer.groups * layer.columns**2 * (layer.columns + layer.rows))


def evenly(count: int, total: int) -> Tensor:
    """`count` of the rows 0 ... total - 1, evenly spaced."""
    return torch.tensor(samples.evenly(count, total))


@dataclass(frozen=True)
class SolveLayer:
    """Quantize one layer on its own.

    Attributes:
        method: (problem, grid) -> Q [g, r, c] on the grid.
        fit_grid: (W [g, r, c], bits) -> Grid; also takes `importance` [g, r, c] if there is one.
        damping: fraction of the mean Hessian diagonal added to that diagonal; 0 for the baseline
            only, whose method can do without.
    """

    method: Callable[[LayerProblem, Grid], Tensor]
    fit_grid: FitGrid
    damping: float

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise ValueError(
                f"damping={self.damping} must lie in (0, 1): it is a fraction of the mean Hessian "
                "diagonal; 0.01 is a usual value"
            )

    def run(self, layer: Keyed[LayerInput], bits: Keyed[int]) -> Artifact:
        """Tensors: packed codes, grid, loss of every row. Record: seconds of the solve, where.

        The loss is (w - q) H (w - q)^T with the calibrated Hessian, without damping.
        """
        with solving(layer.value.layer):
            return self._solve(layer.value, bits.value)

    def _solve(self, layer_input: LayerInput, bits: int) -> Artifact:
        try:
            problem = layer_input.problem()
            grid = layer_input.grid(self.fit_grid, problem.W, bits)
            if layer_input.rows is not None:
                rows = layer_input.rows
                problem, grid = problem.take_rows(rows), grid.rows(rows)
            with timed() as watch:
                Q = self.method(problem.prepared(self.damping), grid)
        except Exception as err:
            err.add_note(f"in layer {layer_input.layer.name}")
            raise
        check_on_grid(Q, grid, problem.W.shape, f"layer {layer_input.layer.name}")
        codes = grid.codes(Q)
        small = torch.uint8 if grid.bits <= 8 else torch.int32
        record = {
            "bits": grid.bits,
            "shape": list(problem.W.shape),
            "group_size": grid.group_size,
            **watch.record,
        }
        tensors = {
            "codes": pack(codes, grid.bits),
            "scale": grid.scale,
            "zero": grid.zero.to(small),
            "loss": problem.loss(Q),
            "loss_rtn": problem.loss(rtn.quantize(problem, grid)),
        }
        return Artifact(tensors, record)


def grid_of(solution: Artifact, dtype: torch.dtype = torch.float32) -> Grid:
    """The grid of a stored solution."""
    record = solution.record
    scale, zero = solution.tensors["scale"], solution.tensors["zero"]
    return Grid(scale.to(dtype), zero.to(dtype), record["bits"], record["group_size"])


def weights_of(solution: Artifact) -> Tensor:
    """The quantized weights Q [g, r, c], float32, decoded from the stored codes."""
    record: dict[str, Any] = solution.record
    codes = unpack(solution.tensors["codes"], record["bits"], tuple(record["shape"]))
    return grid_of(solution).decode(codes.float())


def float_inputs(
    network: Network,
    calibration: Artifact,
    inputs: str = "float",
    importance: Artifact | None = None,
) -> dict[str, LayerInput]:
    """The layers with Hessians of the float network's inputs.

    With inputs="centred", the mean input is subtracted for layers followed by a BatchNorm.
    """

    centre = inputs == "centred"

    def problem(layer: Layer) -> LayerProblem:
        weight = network.module.get_parameter(layer.weight).detach()
        H = hessian_of(calibration, layer.name, centred=centre and bool(layer.norm))
        return LayerProblem(to_matrix(weight, layer.groups), H)

    return {
        name: LayerInput(
            layer,
            lambda layer=layer: problem(layer),  # type: ignore[misc]
            f"{calibration.key}/{name}"
            + ("/centred" if centre and layer.norm else "")
            + (f"/{importance.key}" if importance else ""),
            importance=importance_of(importance, name),
        )
        for name, layer in layers_of(calibration).items()
    }


def importance_of(importance: Artifact | None, name: str) -> Callable[[], Tensor] | None:
    """A function that reads the importance of one layer's weights; None without importance."""
    if importance is None:
        return None
    tensors = importance.tensors
    return lambda: tensors[f"importance/{name}"]


def as_weight(solution: Artifact, layer: Layer) -> Tensor:
    """The quantized weight in the shape of the network's parameter."""
    return from_matrix(weights_of(solution), layer.shape)
