"""The figures of a facet; their common legend is in the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.comparing import facets, markers
from pipelines.comparing.facets import Facet, Point
from pipelines.reporting import canvas, formatting

SIZE = (6.0, 3.5)  # inches
CLOSE = 5.0  # least depth of the close-up below the float network, in points


def figures(facet: Facet) -> dict[str, Figure]:
    """Every figure for which the facet has values, by name."""
    floor = _floor(facet)
    drawn: dict[str, Figure | None] = {}
    with canvas.style():
        drawn["bits"] = accuracy(facet, lambda p: p.bits, "mean bits per weight", None)
        if floor is not None:
            drawn["close"] = accuracy(facet, lambda p: p.bits, "mean bits per weight", floor)
        drawn["pareto"] = accuracy(facet, lambda p: p.size, "size in MB", floor, pareto=True)
        drawn |= _costs(facet, floor)
        drawn["seconds"] = accuracy(facet, lambda p: p.seconds, "solve time in seconds", floor)
        drawn["speedup"] = speedup(facet)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _costs(facet: Facet, floor: float | None) -> dict[str, Figure | None]:
    """Accuracy over bit operations and latency, if bits were searched; else bits determine both."""
    if not any((p.run.results or {}).get("precision") for p in facet.points):
        return {}
    drawn = {"bops": accuracy(facet, lambda p: p.bops, "GBOPs per image", floor, pareto=True)}
    for device in dict.fromkeys(p.device for p in facet.points if p.device):
        drawn[f"latency, {device}"] = accuracy(
            facet,
            lambda p, on=device: p.latency if p.device == on else None,  # type: ignore[misc]
            f"roofline latency on {device} in ms",
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
    """Accuracy with its interval against `x`, one marker per run; None if no run has both.

    Args:
        x: value on the horizontal axis, which is logarithmic unless it shows bits.
        label: label of the horizontal axis.
        floor: runs below this accuracy are arrows at the lower edge, with their value.
        pareto: draw the Pareto front, with dominated runs faint.
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
    for (name, style), shift in zip(markers.styles(facet).items(), shifts, strict=True):
        points = [p for p in facet.series[name] if p in shown]
        if by_bits:
            markers.connect(axes, points, x, lambda p: p.accuracy, style, shift)
        for p in points:
            at = (x(p) or 0.0) + shift
            if floor is not None and (p.accuracy or 0.0) < floor:
                below.append((at, p, style.colour))
            else:
                markers.mark(
                    axes, p, at, style, faint=pareto and p not in best, numbered=not by_bits
                )
    if by_bits:
        _bit_ticks(axes, shown)
    else:
        _log_ticks(axes, [x(p) or 0.0 for p in shown])
    _limit(axes, facet, shown, floor)
    markers.arrows(axes, below)
    return figure


def speedup(facet: Facet) -> Figure | None:
    """Speed-up over OBQ against bits; hollow if OBQ's time is an estimate."""
    shown = [p for p in facet.points if p.bits is not None and (p.speedup or 0) > 0]
    if not shown:
        return None
    figure, axes = _axes("mean bits per weight", "speed-up over OBQ")
    axes.axhline(1, color=canvas.INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
    shifts = markers.shifts(len(facet.series))
    for (name, style), shift in zip(markers.styles(facet).items(), shifts, strict=True):
        points = [p for p in facet.series[name] if p in shown]
        markers.connect(axes, points, lambda p: p.bits, lambda p: p.speedup, style, shift)
        for p in points:
            axes.plot(
                (p.bits or 0.0) + shift, p.speedup or 0.0, style.mark, markersize=7,
                color=style.colour, markeredgewidth=1.5,
                markerfacecolor="none" if p.estimated else style.colour,
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
    """Lower end of the close-up, far below most of the runs; None if no run lies far below."""
    known = sorted(p.accuracy for p in facet.points if p.accuracy is not None)
    if not known or not facet.floats:
        return None
    top = max(facet.floats)
    window = max(CLOSE, 3 * (top - float(np.median(known))))
    close = [value for value in known if top - value <= window]
    return close[0] if close and top - known[0] > 1.5 * window else None


def _limit(axes: Axes, facet: Facet, shown: Sequence[Point], floor: float | None) -> None:
    """Fit the vertical axis to the intervals shown, with a margin."""
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
    """Text that matplotlib does not parse as a formula."""
    return text.replace("$", r"\$")
