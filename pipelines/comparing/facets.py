"""Groups of comparable runs (facets), and the series in them.

The runs of a facet share the model, the evaluation images and the metric. A series is a method with
its other settings, at one or more bit widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.comparing import differing
from pipelines.comparing.discovery import Run
from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results


@dataclass(frozen=True)
class Point:
    """A run's figures for the plots; None where the run has none.

    Attributes:
        own: settings by which the run differs from others of its facet and that have no column.
        bits: mean bits per weight over the quantized layers.
        low, high: 95 % interval of the accuracy: the float accuracy minus the interval of the drop.
        seconds: solve time of the method alone.
        size: size in MB.
        bops: 10^9 bit operations per image.
        latency: latency in ms by the roofline model of `device`.
        estimated: whether the time of OBQ behind `speedup` is an estimate.
    """

    run: Run
    own: str
    label: str
    bits: float | None
    accuracy: float | None
    low: float | None
    high: float | None
    seconds: float | None
    size: float | None
    bops: float | None
    latency: float | None
    device: str | None
    speedup: float | None
    estimated: bool


@dataclass(frozen=True)
class Facet:
    """Runs that can be shown in one plot.

    Attributes:
        model, data, metric, images: shared by all runs; `images` is the number evaluated.
        floats: accuracy of the float network; several values if the runs disagree.
        shared: overrides common to all runs that have no column.
        series: points by name of the series, ordered by bits.
    """

    model: str
    data: str
    metric: str
    images: int | None
    floats: tuple[float, ...]
    shared: str
    series: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        """The points of all series."""
        return [point for points in self.series.values() for point in points]

    @property
    def runs(self) -> list[Run]:
        """The runs, ordered by number."""
        return sorted((point.run for point in self.points), key=lambda run: run.number)

    @property
    def title(self) -> str:
        """ "espnetv2 on voc"."""
        return f"{self.model} on {self.data}" if self.data else self.model

    @property
    def remark(self) -> str:
        """ "mIoU, 200 evaluation images, float network 52.16 %"."""
        floats = sorted({formatting.number(value) for value in self.floats})
        known = f", float network {' or '.join(floats)} %" if floats else ""
        metric = formatting.metric_name(self.metric) if self.metric else "no metric"
        return f"{metric}, {formatting.count(self.images)} evaluation images{known}"


def split(runs: Iterable[Run]) -> list[Facet]:
    """The facets of all runs with results, in the order of the runs."""
    groups: dict[tuple[Any, ...], list[tuple[Run, Results]]] = {}
    for run in runs:
        if run.results is not None:
            groups.setdefault(_key(run.results), []).append((run, run.results))
    return [_facet(key, group) for key, group in groups.items()]


def main_metric(results: Results) -> str:
    """Key of the metric of the drop."""
    named = results.get("metric")
    return str(named) if named else (formatting.metrics(results) or [""])[0]


def mean_bits(results: Results) -> float | None:
    """Mean bits per weight over the layers; without layers, the requested bits."""
    sizes = [
        (math.prod(layer["shape"]), layer["bits"])
        for layer in results.get("layers") or ()
        if layer.get("shape") and layer.get("bits") is not None
    ]
    weights = sum(size for size, _ in sizes)
    if weights:
        return float(sum(size * bits for size, bits in sizes) / weights)
    requested = results.get("weight_bits")
    return None if requested is None else float(requested)


def front(
    points: Sequence[Point], cost: Callable[[Point], float | None] = lambda p: p.size
) -> list[Point]:
    """The Pareto front of accuracy and cost.

    Returns:
        non-dominated points, ordered by cost; equal points are all included.
    """
    known = [
        (at, p.accuracy, p)
        for p in points
        if (at := cost(p)) is not None and p.accuracy is not None
    ]
    best = [
        (at, p)
        for at, accuracy, p in known
        if not any(a <= at and b >= accuracy and (a, b) != (at, accuracy) for a, b, _ in known)
    ]
    return [p for _, p in sorted(best, key=lambda found: found[0])]


def _key(results: Results) -> tuple[Any, ...]:
    model, data = (str(results.get(key) or "") for key in ("model", "data"))
    return model, data, main_metric(results), results.get("n_images")


def _facet(key: tuple[Any, ...], group: Sequence[tuple[Run, Results]]) -> Facet:
    model, data, metric, images = key
    shared, own = differing.split([results for _, results in group])
    choices = [_choices(results) for _, results in group]
    everywhere = set.intersection(*map(set, choices))
    series: dict[str, list[Point]] = {}
    for (run, results), chosen, settings in zip(group, choices, own, strict=True):
        distinct = [choice for choice in chosen if choice not in everywhere]
        name = ", ".join([str(results["method"]), *distinct, *settings])
        series.setdefault(name, []).append(_point(run, results, metric, " ".join(settings)))
    floats = dict.fromkeys(formatting.get(results, "float", metric) for _, results in group)
    return Facet(
        model=model or "unnamed model",
        data=data,
        metric=metric,
        images=images,
        floats=tuple(value for value in floats if value is not None),
        shared=" ".join(shared),
        series={
            name: sorted(series[name], key=lambda point: point.bits or 0.0)
            for name in sorted(series, key=lambda name: (name.split(", ")[0], len(name), name))
        },
    )


def _choices(results: Results) -> list[str]:
    """Inputs and bit search (or activation bits) of a run, for the name of its series."""
    inputs, how = results.get("inputs"), formatting.search(results)
    activations = results.get("act_bits")
    if how is None and activations is not None:  # with a search they are its result
        how = f"{activations}-bit activations"
    return [f"{inputs} inputs" if inputs else "unknown inputs", *([how] if how else [])]


def _point(run: Run, results: Results, metric: str, own: str) -> Point:
    before = formatting.get(results, "float", metric)
    ends = formatting.get(results, "drop", "ci95")
    interval = (before - ends[1], before - ends[0]) if ends and before is not None else (None, None)
    bits = mean_bits(results)
    return Point(
        run=run,
        own=own,
        label="?" if bits is None else f"{bits:.2g}",
        bits=bits,
        accuracy=formatting.get(results, "quantized", metric),
        low=interval[0],
        high=interval[1],
        seconds=formatting.solve_seconds(results),
        size=formatting.get(results, "size_mb", "quantized"),
        bops=formatting.get(results, "costs", "bops"),
        latency=formatting.get(results, "costs", "roofline"),
        device=results.get("device"),
        speedup=results.get("speedup"),
        estimated=bool(formatting.get(results, "baseline", "estimated")),
    )
