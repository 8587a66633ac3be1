"""The runs that may be compared with each other, and the series among them.

A facet is one model on one set of evaluation images by one metric. A series is what is run at
several bit widths: a method with everything else that was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.comparing import settings
from pipelines.comparing.discovery import Run
from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results


@dataclass(frozen=True)
class Point:
    """A run's figures as the plots take them; None where the run does not have one.

    Attributes:
        bits: mean bits of a weight over the layers that were quantized.
        low: lower end of the 95 % interval of the accuracy (of the drop, below the float one).
        seconds: of the method's own solve.
        size: megabytes.
        bops: 10^9 bit operations of an image.
        latency: milliseconds by the roofline of `device`.
    """

    run: Run
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
    """Runs that may stand in one plot.

    Attributes:
        model, data, metric, images: what they have in common.
        floats: accuracies of the float network; more than one where the runs disagree on it.
        series: points by the series' name, in order of bits.
    """

    model: str
    data: str
    metric: str
    images: int | None
    floats: tuple[float, ...]
    series: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        """Of all series."""
        return [point for points in self.series.values() for point in points]

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
    """The facets of all runs that have results, in the order of the runs."""
    groups: dict[tuple[Any, ...], list[tuple[Run, Results]]] = {}
    for run in runs:
        if run.results is not None:
            groups.setdefault(_key(run.results), []).append((run, run.results))
    return [_facet(key, group) for key, group in groups.items()]


def main_metric(results: Results) -> str:
    """The key of the metric that the drop is in."""
    named = results.get("metric")
    return str(named) if named else (formatting.metrics(results) or [""])[0]


def mean_bits(results: Results) -> float | None:
    """Bits of a weight on average, from the layers; without any, what was asked for."""
    sizes = [
        (math.prod(layer["shape"]), layer["bits"])
        for layer in results.get("layers") or ()
        if layer.get("shape") and layer.get("bits") is not None
    ]
    weights = sum(size for size, _ in sizes)
    if weights:
        return float(sum(size * bits for size, bits in sizes) / weights)
    asked_for = results.get("weight_bits")
    return None if asked_for is None else float(asked_for)


def front(
    points: Sequence[Point], cost: Callable[[Point], float | None] = lambda p: p.size
) -> list[Point]:
    """The points that no other beats: none costs as little and is better, or less and is as good.

    Returns:
        in order of cost; of equal ones each.
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
    choices = [_choices(results) for _, results in group]
    everywhere = set.intersection(*map(set, choices))
    series: dict[str, list[Point]] = {}
    for (run, results), chosen in zip(group, choices, strict=True):
        name = ", ".join([str(results["method"]), *(c for c in chosen if c not in everywhere)])
        series.setdefault(name, []).append(_point(run, results, metric))
    floats = dict.fromkeys(formatting.get(results, "float", metric) for _, results in group)
    return Facet(
        model=model or "unnamed model",
        data=data,
        metric=metric,
        images=images,
        floats=tuple(value for value in floats if value is not None),
        series={
            name: sorted(series[name], key=lambda point: point.bits or 0.0)
            for name in sorted(series, key=lambda name: (name.split(", ")[0], len(name), name))
        },
    )


def _choices(results: Results) -> list[str]:
    """What a series was run with beside its method."""
    inputs, how = results.get("inputs"), formatting.search(results)
    activations = results.get("act_bits")
    if how is None and activations is not None:  # else they are what was found
        how = f"{activations}-bit activations"
    said = [f"{inputs} inputs" if inputs else "unknown inputs", *([how] if how else [])]
    return [*said, *settings.others(results)]


def _point(run: Run, results: Results, metric: str) -> Point:
    before = formatting.get(results, "float", metric)
    ends = formatting.get(results, "drop", "ci95")
    interval = (before - ends[1], before - ends[0]) if ends and before is not None else (None, None)
    bits = mean_bits(results)
    return Point(
        run=run,
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
