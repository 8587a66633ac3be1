"""Mixed precision: the cheapest bits per layer that meet a target on the calibration images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipelines.stages.precision.allocate import Allocation, AllocationContext
from pipelines.stages.precision.candidates import Candidates
from pipelines.stages.precision.correlation import correlations
from pipelines.stages.precision.perturbations import MeasurePerturbations
from pipelines.stages.precision.timing import TimeLayer, cost_model
from pipelines.stages.precision.traces import MeasureTraces
from pipelines.stages.precision.workload import RecordWorkloads, workloads_of
from pipelines.store.artifacts import Artifact, Keyed
from quant.costs.workload import CostModel, Workload
from quant.layers import Layer
from quant.mixed.search import SEARCHES
from quant.mixed.sensitivity import METRICS, LayerMeasurements
from quant.mixed.space import FULL, Config, Space
from quant.precision import check_bits, check_layers, fixed_bits

MEASURES = ("metric", "agreement")


@dataclass(frozen=True)
class Mixed:
    """Search for the cheapest bits that keep a given fraction of the float network's accuracy.

    Attributes:
        choices: bit widths to choose from.
        activations: quantize a layer's input to the bits of its weights; else `act_bits` decides.
        metric: sensitivity metric, see quant/mixed/sensitivity.py.
        search: "quadratic", "bisection" or "greedy".
        cost: key in `costs` of the cost to minimise.
        costs: cost models by name; all are reported, but timed ones only if `cost` names them.
        target: fraction of the float network's `measure` to keep, on the calibration images.
        measure: the task's "metric", or "agreement" with the float network, which needs no labels.
        images: number of calibration images to check the target on; None: all.
        first_last_bits: fixed bits of the first and the last layer in order of use; None: these are
            searched too.
        overrides: fixed bits of single layers, by name.
        perturbations: measures the effect of lowering the bits of single layers.
        traces: measures Hessian traces, for metrics that need them.
        check_predictions: number of random configurations, and of random pairs of layers, on which
            to check the metrics' predictions; 0: none.
    """

    choices: Sequence[int] = field(hash=False)
    activations: bool
    metric: str
    search: str
    cost: str
    costs: Mapping[str, CostModel | TimeLayer] = field(hash=False)
    target: float
    measure: str
    images: int | None
    first_last_bits: int | None
    overrides: Mapping[str, int] = field(hash=False)
    perturbations: MeasurePerturbations
    traces: MeasureTraces
    check_predictions: int = 0

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("precision.choices is empty: list bit widths, such as [4,8,16]")
        check_bits({f"precision.choices[{i}]": b for i, b in enumerate(self.choices)})
        ends = (
            {}
            if self.first_last_bits is None
            else {"precision.first_last_bits": self.first_last_bits}
        )
        named = {f"precision.overrides.{name}": b for name, b in self.overrides.items()}
        check_bits({**ends, **named})
        for name, allowed in (
            ("metric", METRICS),
            ("search", SEARCHES),
            ("measure", MEASURES),
            ("cost", self.costs),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"precision.{name}={getattr(self, name)} must be one of {', '.join(allowed)}"
                )
        if not 0 < self.target <= 1:
            raise ValueError(
                f"precision.target={self.target} must lie in (0, 1]: it is the fraction of the "
                "float network's accuracy to keep, such as 0.999"
            )
        if self.images is not None and self.images < 1:
            raise ValueError(f"precision.images={self.images} must be at least 1, or null for all")
        if self.check_predictions < 0 or self.check_predictions in (1, 2):
            raise ValueError(
                f"precision.check_predictions={self.check_predictions} must be 0, or at least 3"
            )

    @property
    def bits(self) -> int:
        """The fewest bits that a layer may get."""
        return min(self.choices)

    @property
    def inputs(self) -> bool:
        """Whether a layer's input gets the bits of its weights."""
        return self.activations

    @property
    def at_most(self) -> dict[str, int]:
        """Calibration images that layers are measured on, at most, by setting."""
        found = {"precision.perturbations.images": self.perturbations.images}
        if self.images is not None:
            found["precision.images"] = self.images
        if self._needs_traces:
            found["precision.traces.images"] = self.traces.images
        return found

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError if an override names no layer."""
        check_layers("precision.overrides", self.overrides, layers)

    def fixed(self, names: Sequence[str]) -> dict[str, int]:
        """Bits of the layers that the search does not change; `names` in order of use."""
        return fixed_bits(names, self.first_last_bits, self.overrides)

    def allocate(self, context: AllocationContext) -> Allocation:
        """Measure perturbations, then search; every evaluated configuration is stored."""
        fixed = self.fixed(list(context.layers))
        widths = sorted({*self.choices, *fixed.values()})
        candidates = Candidates(context, widths, self.activations, self.images)
        perturbed = self._perturbed(context, candidates)
        models, layer_costs = self._costs(context, candidates)
        measured = _measured(candidates, perturbed, self._traces(context, candidates))
        space = self._space(candidates, measured, layer_costs[self.cost])
        evaluator = _Evaluator(self, space, candidates)
        count = self.check_predictions
        checked = correlations(candidates, measured, count, self.traces.seed) if count else None
        search = SEARCHES[self.search]  # depends on the clock: all processes follow rank 0
        config = context.machine.ranks.driven_by_rank_0(
            lambda meets: search(space, meets), evaluator.meets
        )
        reached = config is not None
        config = config or evaluator.nearest()
        bits = evaluator.bits(config)
        inputs = {n: b for n, b in bits.items() if n in candidates.grids}
        total = {name: _total(costs, context, widths, bits) for name, costs in layer_costs.items()}
        full = dict.fromkeys(context.layers, widths[-1])
        widest = {name: _total(costs, context, widths, full) for name, costs in layer_costs.items()}
        record = {
            "metric": self.metric,
            "search": self.search,
            "cost": self.cost,
            "measure": self.measure,
            "target": self.target,
            "reached": reached,
            "float": evaluator.float_value,
            "value": evaluator.value(config),
            "images": len(candidates.data.value.evaluation),
            "evaluations": len(evaluator.values),
            "tried": [[space.cost(c), value] for c, value in evaluator.values.items()],
            "unit": models[self.cost].unit,
            "costs": total,
            "costs_widest": widest,
            "units": {name: model.unit for name, model in models.items()},
            "widths": widths,
            "seconds": candidates.seconds,
            "measuring": {
                k: perturbed.record[k] for k in ("images", "seconds_forward", "seconds_couplings")
            },
            "couplings": _at_chosen(perturbed, bits),
            "correlation": checked,
        }
        return Allocation(
            bits,
            inputs if self.activations else None,
            record,
            candidates.seconds,
            candidates.cached,
        )

    def _perturbed(self, context: AllocationContext, candidates: Candidates) -> Artifact:
        lower = [c for c in candidates.perturbations if c[1] < FULL]
        listed = [candidates.perturbations[c][0] for c in lower]
        keys = ",".join(candidates.perturbations[c][1] for c in lower)
        module = Keyed(candidates.module, context.network.key)
        return candidates.count(
            context.store.run(
                self.perturbations,
                module,
                Keyed(listed, keys),
                context.images,
                context.machine,
            )
        )

    @property
    def _needs_traces(self) -> bool:
        return self.metric == "hessian_trace" or self.check_predictions > 0

    def _traces(self, context: AllocationContext, candidates: Candidates) -> Tensor | None:
        if not self._needs_traces:
            return None
        layers = Keyed(context.layers, context.calibration.key)
        traces = context.store.run(
            self.traces, context.network, layers, context.images, context.machine
        )
        return candidates.count(traces).tensors["trace"]

    def _costs(
        self, context: AllocationContext, candidates: Candidates
    ) -> tuple[dict[str, CostModel], dict[str, Tensor]]:
        """The cost models, and the costs [N, B] of every layer at every width, by name."""
        layers = Keyed(context.layers, context.calibration.key)
        layer_workloads = workloads_of(
            context.store.run(
                RecordWorkloads(), context.network, layers, context.images, context.machine
            )
        )

        def act_bits(name: str, bits: int) -> int:
            if self.activations:
                return bits if name in candidates.grids else FULL
            return context.activations.bits or FULL

        def cost(model: CostModel, workload: Workload, bits: int) -> float:
            return model.cost(workload, bits, act_bits(workload.name, bits))

        models = {
            name: cost_model(model, context.store, layer_workloads, context.machine)
            for name, model in self.costs.items()
            if name == self.cost or not isinstance(model, TimeLayer)
        }
        layer_costs = {
            name: torch.tensor(
                [
                    [cost(model, layer_workloads[n], b) for b in candidates.widths]
                    for n in context.layers
                ],
                dtype=torch.float64,
            )
            for name, model in models.items()
        }
        return models, layer_costs

    def _space(self, candidates: Candidates, measured: LayerMeasurements, costs: Tensor) -> Space:
        """The search space of the free layers at the widths in `choices`.

        Args:
            candidates: all layers at all widths.
            measured: measurements of all layers at all widths.
            costs: [N, B], of all layers at all widths.
        """
        names, widths = list(candidates.context.layers), list(candidates.widths)
        fixed = self.fixed(names)
        free = torch.tensor([i for i, n in enumerate(names) if n not in fixed])
        chosen = torch.tensor([widths.index(b) for b in sorted(set(self.choices))])
        part = measured.couplings[free][:, chosen][:, :, free][:, :, :, chosen]
        return Space(
            [names[i] for i in free],
            [widths[j] for j in chosen],
            costs[free][:, chosen],
            METRICS[self.metric](measured)[free][:, chosen],
            part if self.metric == "inter_layer" else None,
        )


def _measured(
    candidates: Candidates, perturbed: Artifact, trace: Tensor | None
) -> LayerMeasurements:
    """The measurements of all layers at all widths; 0 for widths that count as unquantized."""
    context, widths = candidates.context, list(candidates.widths)
    names = list(context.layers)
    N, B = len(names), len(widths)
    changes = [tuple(change) for change in perturbed.record["changes"]]
    rows = torch.tensor([names.index(n) * B + widths.index(b) for n, b in changes])
    A = torch.zeros(N * B, N * B, dtype=torch.float64)
    A[rows[:, None], rows] = perturbed.tensors["couplings"]
    alone = torch.zeros(N * B, dtype=torch.float64)
    alone[rows] = perturbed.tensors["divergence"]
    weights = {
        (n, b): (_float_weight(context, layer), candidates.perturbations[n, b][0].weight)
        for n, layer in context.layers.items()
        for b in widths
    }
    return LayerMeasurements(A.reshape(N, B, N, B), alone.reshape(N, B), trace, weights)


class _Evaluator:
    """Evaluates configurations against the target, each one once."""

    def __init__(self, settings: Mixed, space: Space, candidates: Candidates) -> None:
        self.settings, self.space, self.candidates = settings, space, candidates
        self.values: dict[Config, float] = {}
        agreement = settings.measure == "agreement"
        self.float_value = 100.0 if agreement else candidates.float_metric

    def bits(self, config: Config) -> dict[str, int]:
        """Bits of all layers, fixed ones included, in order of use."""
        names = list(self.candidates.context.layers)
        chosen = {**self.space.bits(config), **self.settings.fixed(names)}
        return {name: chosen[name] for name in names}

    def value(self, config: Config) -> float:
        """The measure of a configuration, in percent."""
        if config not in self.values:
            figures = self.candidates.figures(self.bits(config))
            self.values[config] = figures[self.settings.measure]
        return self.values[config]

    def meets(self, config: Config) -> bool:
        """Whether a configuration meets the target."""
        return self.value(config) >= self.settings.target * self.float_value

    def nearest(self) -> Config:
        """The best evaluated configuration, for a target that none meets."""
        return max(self.values, key=lambda config: self.values[config])


def _total(
    costs: Tensor, context: AllocationContext, widths: Sequence[int], bits: Mapping[str, int]
) -> float:
    return float(sum(costs[i, widths.index(bits[name])] for i, name in enumerate(context.layers)))


def _float_weight(context: AllocationContext, layer: Layer) -> Tensor:
    return context.network.module.get_parameter(layer.weight).detach()


def _at_chosen(perturbed: Artifact, bits: Mapping[str, int]) -> dict[str, Any]:
    """The couplings between the layers at the chosen bits, for the report."""
    changes = [tuple(change) for change in perturbed.record["changes"]]
    rows = [i for i, (name, b) in enumerate(changes) if bits[name] == b]
    A = perturbed.tensors["couplings"][rows][:, rows]
    return {"layers": [changes[i][0] for i in rows], "matrix": A.tolist()}
