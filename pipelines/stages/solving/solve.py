"""One layer's solve. The quantize and the baseline stage share its stored results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evaluation import samples
from pipelines.machine import clock
from pipelines.machine.threads import solving
from pipelines.models.network import Network
from pipelines.stages.calibrate import layers_of
from pipelines.store.artifacts import Artifact, Keyed
from quant.grid import Grid
from quant.hessian import centred
from quant.layers import Layer, from_matrix, to_matrix
from quant.methods import rtn
from quant.packing import pack, unpack
from quant.problem import LayerProblem

FitGrid = Callable[..., Grid]


def wants_importance(fit_grid: FitGrid) -> bool:
    """Whether grids are fitted with the importance of the weights."""
    return bool(getattr(fit_grid, "keywords", {}).get("search") == "hmse")


@dataclass(frozen=True, eq=False)
class LayerInput:
    """A layer to be solved.

    Attributes:
        layer: its name and shape.
        problem: makes W and H; only called when the solution is not stored yet.
        key: of everything that W and H depend on, and of `rows`.
        importance: of every weight [g, r, c], for a grid that asks for it.
        rows: solve only these output rows of every group; None for all. The grid is fitted to all.
    """

    layer: Layer
    problem: Callable[[], LayerProblem]
    key: str
    rows: Tensor | None = None
    importance: Callable[[], Tensor] | None = None

    def grid(self, fit: FitGrid, W: Tensor, bits: int) -> Grid:
        """The grid of W [g, r, c], all rows of this layer."""
        return fit(W, bits, importance=self.importance()) if self.importance else fit(W, bits)

    def of_rows(self, count: int) -> LayerInput:
        """The same layer with `count` evenly spaced rows of every group."""
        if count >= self.layer.rows:
            return self
        index = evenly(count, self.layer.rows)
        return replace(self, key=f"{self.key}/rows={count}", rows=index)


def effort(layer: Layer) -> float:
    """What a layer's inverse Hessian and its solve take, in no unit: for sharing layers out."""
    return float(layer.groups * layer.columns**2 * (layer.columns + layer.rows))


def evenly(count: int, total: int) -> Tensor:
    """`count` of the rows 0 ... total - 1, evenly spaced."""
    return torch.tensor(samples.evenly(count, total))


@dataclass(frozen=True)
class SolveLayer:
    """Quantize one layer on its own.

    Attributes:
        method: (problem, grid) -> Q [g, r, c] on the grid.
        fit_grid: (W [g, r, c], bits) -> Grid, given `importance` [g, r, c] too where there is one.
        damping: fraction of the mean Hessian diagonal added to that diagonal.
    """

    method: Callable[[LayerProblem, Grid], Tensor]
    fit_grid: FitGrid
    damping: float

    def __post_init__(self) -> None:
        if not 0 < self.damping < 1:
            raise ValueError(
                f"damping={self.damping} must lie in (0, 1): it is a fraction of the "
                "mean Hessian diagonal, 0.01 is usual"
            )

    def run(self, layer: Keyed[LayerInput], bits: Keyed[int]) -> Artifact:
        """Tensors: packed codes, grid, loss of every row. Record: seconds of the solve.

        The loss is (w - q) H (w - q)^T with the Hessian as calibrated, not the damped one.
        """
        with solving(layer.value.layer):
            return self._solved(layer.value, bits.value)

    def _solved(self, given: LayerInput, bits: int) -> Artifact:
        try:
            problem = given.problem()
            grid = given.grid(self.fit_grid, problem.W, bits)
            if given.rows is not None:
                problem, grid = problem.take_rows(given.rows), grid.rows(given.rows)
            start = clock.seconds()
            Q = self.method(problem.prepared(self.damping), grid)
            seconds = clock.seconds() - start
        except Exception as err:
            err.add_note(f"in layer {given.layer.name}")
            raise
        codes = grid.codes(Q)
        small = torch.uint8 if grid.bits <= 8 else torch.int32
        record = {
            "bits": grid.bits,
            "shape": list(problem.W.shape),
            "group_size": grid.group_size,
            "seconds": seconds,
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
    """The layers with the Hessians of the float network's inputs.

    With inputs "centred", of those without their mean, wherever a BatchNorm takes the output.
    """

    around_mean = inputs == "centred"

    def problem(layer: Layer) -> LayerProblem:
        weight = network.module.get_parameter(layer.weight).detach()
        H = calibration.tensors[layer.name]
        if around_mean and layer.norm:
            H = centred(H, calibration.tensors[f"mean/{layer.name}"])
        return LayerProblem(to_matrix(weight, layer.groups), H)

    return {
        name: LayerInput(
            layer,
            lambda layer=layer: problem(layer),  # type: ignore[misc]
            f"{calibration.key}/{name}"
            + ("/centred" if around_mean and layer.norm else "")
            + (f"/{importance.key}" if importance else ""),
            importance=weighed(importance, name),
        )
        for name, layer in layers_of(calibration).items()
    }


def weighed(importance: Artifact | None, name: str) -> Callable[[], Tensor] | None:
    """The importance of one layer's weights, read when it is asked for."""
    if importance is None:
        return None
    tensors = importance.tensors
    return lambda: tensors[f"importance/{name}"]


def as_weight(solution: Artifact, layer: Layer) -> Tensor:
    """The quantized weight in the shape that the network has it in."""
    return from_matrix(weights_of(solution), layer.shape)
