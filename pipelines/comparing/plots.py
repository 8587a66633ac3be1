"""The figures of a facet. Series and their colours are named once, beside the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.comparing import facets, markers
from pipelines.comparing.facets import Facet, Point
from pipelines.reporting import canvas, formatting

SIZE = (6.0, 3.5)  # inches
CLOSE = 5.0  # points below the float network at which the close-up ends, at least


def figures(facet: Facet) -> dict[str, Figure]:
    """Every figure that the facet has the values for, by name."""
    floor = _floor(facet)
    drawn: dict[str, Figure | None] = {}
    with canvas.style():
        drawn["bits"] = accuracy(facet, lambda p: p.bits, "mean bits of a weight", None)
        if floor is not None:
            drawn["close"] = accuracy(facet, lambda p: p.bits, "mean bits of a weight", floor)
        drawn["pareto"] = accuracy(facet, lambda p: p.size, "size in MB", floor, pareto=True)
        drawn |= _costs(facet, floor)
        drawn["seconds"] = accuracy(facet, lambda p: p.seconds, "seconds of solving", floor)
        drawn["speedup"] = speedup(facet)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _costs(facet: Facet, floor: float | None) -> dict[str, Figure | None]:
    """Fronts over bit operations and latency, where bits were searched: else they follow bits."""
    if not any((p.run.results or {}).get("precision") for p in facet.points):
        return {}
    drawn = {"bops": accuracy(facet, lambda p: p.bops, "GBOPs of an image", floor, pareto=True)}
    for device in dict.fromkeys(p.device for p in facet.points if p.device):
        drawn[f"latency, {device}"] = accuracy(
            facet,
            lambda p, on=device: p.latency if p.device == on else None,  # type: ignore[misc]
            f"ms by the roofline of {device}",
            floor,
            pareto=True,
        )
    return drawn


def accuracy(
    facet: Facet,
    x: Callable[[Point], float | None],
    label: str,
    floor: float | None,
    pareto: bool = False,
) -> Figure | None:
    """Accuracy with its interval against something; a mark per run.

    Args:
        x: what it is drawn against; on a log axis unless that is bits.
        floor: accuracies below it are drawn at the lower edge, as an arrow with their value.
        pareto: draw the front, and the runs behind it faint.
    """
    shown = [p for p in facet.points if x(p) is not None and p.accuracy is not None]
    if not shown:
        return None
    by_bits = label.startswith("mean bits")
    figure, axes = _axes(label, literal(formatting.metric_name(facet.metric)) + ", %")
    for value in facet.floats:
        axes.axhline(value, color=canvas.INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
    best = facets.front(facet.points, x) if pareto else []
    if best:
        axes.plot(
            [x(p) or 0.0 for p in best], [p.accuracy or 0.0 for p in best],
            drawstyle="steps-post", color=canvas.INK, linewidth=1, alpha=0.6, zorder=1,
        )  # fmt: skip
    below: list[tuple[float, Point, str]] = []
    shifts = markers.shifts(len(facet.series)) if by_bits else [0.0] * len(facet.series)
    for (name, look), shift in zip(markers.looks(facet).items(), shifts, strict=True):
        points = [p for p in facet.series[name] if p in shown]
        if by_bits:
            markers.connect(axes, points, x, lambda p: p.accuracy, look, shift)
        for p in points:
            at = (x(p) or 0.0) + shift
            if floor is not None and (p.accuracy or 0.0) < floor:
                below.append((at, p, look.colour))
            else:
                markers.mark(
                    axes, p, at, look, faint=pareto and p not in best, numbered=not by_bits
                )
    if by_bits:
        _bit_ticks(axes, shown)
    else:
        _log_ticks(axes, [x(p) or 0.0 for p in shown])
    _limit(axes, facet, shown, floor)
    markers.arrows(axes, below)
    return figure


def speedup(facet: Facet) -> Figure | None:
    """Speed-up over OBQ against bits; hollow where OBQ's time is an estimate."""
    shown = [p for p in facet.points if p.bits is not None and (p.speedup or 0) > 0]
    if not shown:
        return None
    figure, axes = _axes("mean bits of a weight", "speed-up over OBQ")
    axes.axhline(1, color=canvas.INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
    shifts = markers.shifts(len(facet.series))
    for (name, look), shift in zip(markers.looks(facet).items(), shifts, strict=True):
        points = [p for p in facet.series[name] if p in shown]
        markers.connect(axes, points, lambda p: p.bits, lambda p: p.speedup, look, shift)
        for p in points:
            axes.plot(
                (p.bits or 0.0) + shift, p.speedup or 0.0, look.mark, markersize=7,
                color=look.colour, markeredgewidth=1.5,
                markerfacecolor="none" if p.estimated else look.colour,
            )  # fmt: skip
    _bit_ticks(axes, shown)
    axes.set_yscale("log")
    values = [p.speedup or 1.0 for p in shown] + [1.0]
    axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
    canvas.plain_log_ticks(axes.yaxis, min(values), max(values))
    return figure


def _axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = canvas.blank(SIZE[1], SIZE[0])
    axes = figure.add_subplot()
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def _floor(facet: Facet) -> float | None:
    """Where the close-up ends: far below most of the runs; None where there is nothing to cut."""
    known = sorted(p.accuracy for p in facet.points if p.accuracy is not None)
    if not known or not facet.floats:
        return None
    top = max(facet.floats)
    window = max(CLOSE, 3 * (top - float(np.median(known))))
    close = [value for value in known if top - value <= window]
    return close[0] if close and top - known[0] > 1.5 * window else None


def _limit(axes: Axes, facet: Facet, shown: Sequence[Point], floor: float | None) -> None:
    """From the lowest to the highest end of an interval that is shown, and a little more."""
    kept = [p for p in shown if floor is None or (p.accuracy or 0.0) >= floor]
    values = [
        v for p in kept for v in (p.accuracy, p.low, p.high) if v is not None
    ] + [*facet.floats]  # fmt: skip
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    below = 0.2 * (high - low) if len(kept) < len(shown) else room  # room for the arrows
    axes.set_ylim(low - below, high + room)


def _bit_ticks(axes: Axes, points: Sequence[Point]) -> None:
    bits = [p.bits or 0.0 for p in points]
    low, high = int(np.floor(min(bits))), int(np.ceil(max(bits)))
    axes.set_xticks(range(low, high + 1))
    axes.set_xlim(min(bits) - 0.4, max(bits) + 0.4)


def _log_ticks(axes: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    axes.set_xscale("log")
    room = max((high / low) ** 0.07, 1.08)
    axes.set_xlim(low / room, high * room)
    canvas.plain_log_ticks(axes.xaxis, low / room, high * room)


def literal(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
