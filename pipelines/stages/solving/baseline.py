"""Stage: time and loss of Optimal Brain Quantization on the same layers, grids and Hessians.

OBQ solves the rows of a layer independently, so its time is a constant per layer (H^-1) plus a part
proportional to the number of rows. Where all rows would take too long, evenly spaced rows are
solved and the second part is extrapolated; the time is then marked as estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipelines.machine.machine import Machine
from pipelines.machine.stopwatch import Place, place_of, timed
from pipelines.machine.threads import solving
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.solve import LayerInput, SolveLayer, effort, evenly
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from quant.problem import inverse_root


@dataclass(frozen=True)
class LayerBaseline:
    """OBQ on one layer.

    Attributes:
        seconds: time for all rows, measured or estimated.
        estimated: whether `seconds` is extrapolated from some rows.
        rows: number of solved rows per group.
        loss: layer loss [g, rows] of OBQ on the solved rows.
        method_loss: layer loss [g, rows] of the run's method on the same rows.
        cached: whether everything came from the store.
        places: where its seconds were measured.
        spent: seconds that computing all of this took, now or when it was stored; never estimated.
    """

    seconds: float
    estimated: bool
    rows: int
    loss: Tensor
    method_loss: Tensor
    cached: bool
    places: frozenset[Place] = frozenset()
    spent: float = 0.0


@dataclass(frozen=True)
class Baseline:
    """OBQ on every layer, on all rows where the time budget allows.

    Attributes:
        solve: OBQ with the run's grid and its authors' damping; None: no baseline at all.
        budget: seconds per layer; the time of a layer that would take longer is estimated.
        rows: rows to solve for an estimate; fewer if these exceed the budget.
    """

    solve: SolveLayer | None
    budget: float
    rows: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.budget < 0:
            raise ValueError(
                f"baseline.rows={self.rows} must be at least 1 and baseline.budget={self.budget} "
                "(seconds per layer) at least 0"
            )

    def run(
        self, store: Store, weights: QuantizedWeights, bits: Mapping[str, int], machine: Machine
    ) -> dict[str, LayerBaseline]:
        """The baseline of every layer, by name; every process computes a share of the layers.

        Empty where there is none.
        """
        if self.solve is None:
            return {}
        solve, names, ranks = self.solve, list(weights.inputs), machine.ranks

        def layer(store: Store, name: str) -> LayerBaseline:
            width = Keyed(bits[name], str(bits[name]))
            return self._layer(store, solve, weights.inputs[name], width, weights.solutions[name])

        share = [
            names[i] for i in ranks.assigned([effort(x.layer) for x in weights.inputs.values()])
        ]
        with machine.screen.bar("OBQ baseline", len(share)) as advance:
            results = dict(zip(share, store.map_locked_last(layer, share, advance), strict=True))
        if not ranks.distributed:
            return results
        cached = ranks.union({name: found.cached for name, found in results.items()})
        return {
            name: replace(layer(store.single_process, name), cached=cached[name]) for name in names
        }

    def _layer(
        self,
        store: Store,
        solve: SolveLayer,
        layer_input: LayerInput,
        bits: Keyed[int],
        solution: Artifact,
    ) -> LayerBaseline:
        total = layer_input.layer.rows
        timing = store.run(TimeInverse(solve.damping), Keyed(layer_input, layer_input.key))
        shared = float(timing.record["seconds"])
        one = _solve(store, solve, layer_input, 1, bits)
        each = max(1e-9, one.record["seconds"] - shared)
        affordable = self.budget >= shared + each * total
        rows = total if affordable else max(1, min(self.rows, int(self.budget / each), total))
        solved = _solve(store, solve, layer_input, rows, bits)
        computed = {artifact.key: artifact.seconds for artifact in (timing, one, solved)}
        seconds = float(solved.record["seconds"])
        if rows < total:
            seconds = estimate(seconds, shared, rows, total)
        return LayerBaseline(
            seconds=seconds,
            estimated=rows < total,
            rows=rows,
            loss=solved.tensors["loss"],
            method_loss=solution.tensors["loss"][:, evenly(rows, total)],
            cached=timing.cached and one.cached and solved.cached,
            places=frozenset(place_of(each.record) for each in (timing, one, solved)),
            spent=sum(computed.values()),
        )


def _solve(
    store: Store, solve: SolveLayer, layer_input: LayerInput, rows: int, bits: Keyed[int]
) -> Artifact:
    some = layer_input.of_rows(rows)
    return store.run(solve, Keyed(some, some.key), bits)


@dataclass(frozen=True)
class TimeInverse:
    """The part of OBQ's time that does not grow with the number of rows."""

    damping: float

    def run(self, layer: Keyed[LayerInput], place: Place | None = None) -> Artifact:
        """Record: seconds of one H^-1, where; `place` separates this machine's from others.

        The identity is added where OBQ adds it.
        """
        problem = layer.value.problem()
        with solving(layer.value.layer):
            with timed() as watch:
                U = inverse_root(problem.prepared(self.damping).H, problem.W.dtype, True)
                U.mT @ U
            return Artifact({}, watch.record)


def estimate(seconds: float, shared: float, rows: int, total: int) -> float:
    """Extrapolate the time of all `total` rows.

    Args:
        seconds: time of `rows` rows, including one H^-1.
        shared: time of one H^-1.
        rows: number of solved rows.
        total: number of all rows.
    """
    return shared + max(1e-9, seconds - shared) * total / rows


def loss_ratio(baseline: Mapping[str, LayerBaseline]) -> float:
    """Geometric mean over layers of (method's loss / OBQ's loss), on the rows that OBQ solved.

    A layer with equal losses, zero included, counts as 1.
    """
    logs = [layer_ratio(layer).log() for layer in baseline.values()]
    return float(torch.stack(logs).mean().exp())


def layer_ratio(layer: LayerBaseline) -> Tensor:
    """Method's loss / OBQ's loss of one layer, a scalar."""
    ours, theirs = layer.method_loss.sum(), layer.loss.sum()
    if float(ours) == float(theirs):
        return torch.ones((), dtype=torch.float64)
    return ours.clamp(min=1e-20) / theirs.clamp(min=1e-20)
