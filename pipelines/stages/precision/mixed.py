"""Bits for every layer: the cheapest that still meet a target on the calibration images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipelines.stages.precision.allocate import Allocation, AllocationContext, check_names
from pipelines.stages.precision.candidates import Candidates
from pipelines.stages.precision.correlation import correlations
from pipelines.stages.precision.perturbations import MeasurePerturbations
from pipelines.stages.precision.timing import TimeLayer, cost_model
from pipelines.stages.precision.traces import MeasureTraces
from pipelines.store.artifacts import Artifact, Keyed
from quant.costs.workload import CostModel, Workload, workloads
from quant.layers import Layer
from quant.mixed.search import SEARCHES
from quant.mixed.sensitivity import METRICS, LayerMeasurements
from quant.mixed.space import FULL, Config, Space
from quant.precision import check_bits, fixed_bits

MEASURES = ("metric", "agreement")


@dataclass(frozen=True)
class Mixed:
    """Search for the cheapest bits that keep so much of the float network's figure.

    Attributes:
        choices: numbers of bits that a layer may get.
        activations: a layer's inputs get its weights' bits; else they are left to `act_bits`.
        metric: what ranks layers, see quant/mixed/sensitivity.py.
        search: "quadratic", "bisection" or "greedy".
        cost: name, among `costs`, of what is to become small.
        costs: cost models by name; all are reported, but timings are only taken if asked for.
        target: part of the float network's figure that must be kept, on the calibration images.
        measure: that figure: the task's "metric", or "agreement" with the float network, which
            needs no labels.
        images: calibration images that the target is checked on; None: all.
        first_last_bits: of the first and the last layer in their order of use, which the search
            then leaves alone; None: it searches them too.
        overrides: bits of single layers by name, likewise.
        perturbations: how layers are measured at fewer bits.
        traces: how their Hessians are, where a metric needs them.
        check_predictions: try so many random configurations, and pairs of layers, to see how well
            each metric predicts them.
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
            raise ValueError("precision.choices is empty: give numbers of bits, [4,8,16] say")
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
                f"precision.target={self.target} must lie in (0, 1]: it is the part of the float "
                "network's figure to be kept, 0.999 say"
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
        """Whether a layer's input gets its weights' bits."""
        return self.activations

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError where an override names no layer."""
        check_names(self.overrides, layers)

    def fixed(self, names: Sequence[str]) -> dict[str, int]:
        """Bits of the layers, in their order of use, that the search leaves alone."""
        return fixed_bits(names, self.first_last_bits, self.overrides)

    def allocate(self, given: AllocationContext) -> Allocation:
        """Measure, then search. Every configuration that is tried is stored."""
        fixed = self.fixed(list(given.layers))
        widths = sorted({*self.choices, *fixed.values()})
        candidates = Candidates(given, widths, self.activations, self.images)
        measured = self._measured(given, candidates)
        models, priced = self._costs(given, candidates)
        known = _known(candidates, measured, self._traces(given, candidates))
        space = self._space(candidates, known, priced[self.cost])
        asked = _Asked(self, space, candidates)
        count = self.check_predictions
        checked = correlations(candidates, known, count, self.traces.seed) if count else None
        search = SEARCHES[self.search]  # it looks at the clock
        config = given.machine.ranks.led(lambda meets: search(space, meets), asked.meets)
        reached = config is not None
        config = config or asked.nearest()
        bits = asked.bits(config)
        inputs = {n: b for n, b in bits.items() if n in candidates.grids}
        total = {name: _total(costs, given, widths, bits) for name, costs in priced.items()}
        full = dict.fromkeys(given.layers, widths[-1])
        widest = {name: _total(costs, given, widths, full) for name, costs in priced.items()}
        record = {
            "metric": self.metric,
            "search": self.search,
            "cost": self.cost,
            "measure": self.measure,
            "target": self.target,
            "reached": reached,
            "float": asked.float_value,
            "value": asked.value(config),
            "images": len(candidates.data.value.evaluation),
            "evaluations": len(asked.known),
            "tried": [[space.cost(c), value] for c, value in asked.known.items()],
            "unit": models[self.cost].unit,
            "costs": total,
            "costs_widest": widest,
            "units": {name: model.unit for name, model in models.items()},
            "widths": widths,
            "seconds": candidates.seconds,
            "measuring": {
                k: measured.record[k] for k in ("images", "seconds_forward", "seconds_couplings")
            },
            "couplings": _at_chosen(measured, bits),
            "correlation": checked,
        }
        return Allocation(
            bits,
            inputs if self.activations else None,
            record,
            candidates.seconds,
            candidates.cached,
        )

    def _measured(self, given: AllocationContext, candidates: Candidates) -> Artifact:
        lower = [c for c in candidates.changes if c[1] < FULL]
        listed = [candidates.changes[c][0] for c in lower]
        keys = ",".join(candidates.changes[c][1] for c in lower)
        module = Keyed(candidates.module, given.network.key)
        return candidates.ran(
            given.store.run(
                self.perturbations,
                module,
                Keyed(listed, keys),
                given.images,
                given.machine,
            )
        )

    def _traces(self, given: AllocationContext, candidates: Candidates) -> Tensor | None:
        if self.metric != "hessian_trace" and not self.check_predictions:
            return None
        layers = Keyed(given.layers, given.calibration.key)
        found = given.store.run(self.traces, given.network, layers, given.images, given.machine)
        return candidates.ran(found).tensors["trace"]

    def _costs(
        self, given: AllocationContext, candidates: Candidates
    ) -> tuple[dict[str, CostModel], dict[str, Tensor]]:
        """The models, and what every layer costs at every width [N, B], by name."""
        example, _ = next(iter(given.images.value.calibration_loader(first=1)))
        work = workloads(given.network.module, example, given.layers)

        def act_bits(name: str, bits: int) -> int:
            if self.activations:
                return bits if name in candidates.grids else FULL
            return given.activations.bits or FULL

        def cost(model: CostModel, work: Workload, bits: int) -> float:
            return model.cost(work, bits, act_bits(work.name, bits))

        models = {
            name: cost_model(model, given.store, work, given.machine)
            for name, model in self.costs.items()
            if name == self.cost or not isinstance(model, TimeLayer)
        }
        priced = {
            name: torch.tensor(
                [[cost(model, work[n], b) for b in candidates.widths] for n in given.layers],
                dtype=torch.float64,
            )
            for name, model in models.items()
        }
        return models, priced

    def _space(self, candidates: Candidates, known: LayerMeasurements, costs: Tensor) -> Space:
        """The layers that are free, at the widths that may be chosen; costs [N, B] of all."""
        names, widths = list(candidates.given.layers), list(candidates.widths)
        fixed = self.fixed(names)
        free = torch.tensor([i for i, n in enumerate(names) if n not in fixed])
        chosen = torch.tensor([widths.index(b) for b in sorted(set(self.choices))])
        part = known.couplings[free][:, chosen][:, :, free][:, :, :, chosen]
        return Space(
            [names[i] for i in free],
            [widths[j] for j in chosen],
            costs[free][:, chosen],
            METRICS[self.metric](known)[free][:, chosen],
            part if self.metric == "inter_layer" else None,
        )


def _known(candidates: Candidates, measured: Artifact, trace: Tensor | None) -> LayerMeasurements:
    """What was measured, with 0 for widths that count as unchanged."""
    given, widths = candidates.given, list(candidates.widths)
    names = list(given.layers)
    N, B = len(names), len(widths)
    changes = [tuple(change) for change in measured.record["changes"]]
    rows = torch.tensor([names.index(n) * B + widths.index(b) for n, b in changes])
    A = torch.zeros(N * B, N * B, dtype=torch.float64)
    A[rows[:, None], rows] = measured.tensors["couplings"]
    alone = torch.zeros(N * B, dtype=torch.float64)
    alone[rows] = measured.tensors["divergence"]
    weights = {
        (n, b): (_float_weight(given, layer), candidates.changes[n, b][0].weight)
        for n, layer in given.layers.items()
        for b in widths
    }
    return LayerMeasurements(A.reshape(N, B, N, B), alone.reshape(N, B), trace, weights)


class _Asked:
    """Which configurations keep enough, and by how much; each is tried once."""

    def __init__(self, settings: Mixed, space: Space, candidates: Candidates) -> None:
        self.settings, self.space, self.candidates = settings, space, candidates
        self.known: dict[Config, float] = {}
        agreement = settings.measure == "agreement"
        self.float_value = 100.0 if agreement else candidates.float_metric

    def bits(self, config: Config) -> dict[str, int]:
        """Of all layers, in their order."""
        names = list(self.candidates.given.layers)
        chosen = {**self.space.bits(config), **self.settings.fixed(names)}
        return {name: chosen[name] for name in names}

    def value(self, config: Config) -> float:
        """The figure that the target is about, in percent."""
        if config not in self.known:
            found = self.candidates.figures(self.bits(config))
            self.known[config] = found[self.settings.measure]
        return self.known[config]

    def meets(self, config: Config) -> bool:
        """Whether enough of the float network's figure is kept."""
        return self.value(config) >= self.settings.target * self.float_value

    def nearest(self) -> Config:
        """The best of those tried, where none met the target."""
        return max(self.known, key=lambda config: self.known[config])


def _total(
    costs: Tensor, given: AllocationContext, widths: Sequence[int], bits: Mapping[str, int]
) -> float:
    return float(sum(costs[i, widths.index(bits[name])] for i, name in enumerate(given.layers)))


def _float_weight(given: AllocationContext, layer: Layer) -> Tensor:
    return given.network.module.get_parameter(layer.weight).detach()


def _at_chosen(measured: Artifact, bits: Mapping[str, int]) -> dict[str, Any]:
    """The couplings among the layers as they are quantized now, for the report."""
    changes = [tuple(change) for change in measured.record["changes"]]
    rows = [i for i, (name, b) in enumerate(changes) if bits[name] == b]
    A = measured.tensors["couplings"][rows][:, rows]
    return {"layers": [changes[i][0] for i in rows], "matrix": A.tolist()}
