"""Colour and marker of a series, and drawing its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from evaluation.contrast import ink
from pipelines.comparing.facets import Facet, Point
from pipelines.reporting import canvas, formatting

OF_METHODS = {"row_parallel": canvas.METHOD, "obq": canvas.BASELINE, "rtn": canvas.RTN}
COLOURS = ("#3a9d5d", "#9a6fc9", "#d1495b", "#1ba3a3", "#b07d2b", "#d670ad", "#6b7fd7", "#7d9a1f")
MIDDLE = {"^": -1.5, "v": 1.5}  # centre of a marker above that of its bounding box, in points
MARKS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "p": "⬟", "h": "⬢"}


@dataclass(frozen=True)
class Style:
    """Colour and marker of a series."""

    colour: str
    mark: str

    @property
    def sign(self) -> str:
        """The marker as a character, for legends in text."""
        return MARKS[self.mark]


def styles(facet: Facet) -> dict[str, Style]:
    """A distinct style per series; some methods have the same colour in every facet."""
    found: dict[str, Style] = {}
    for index, name in enumerate(facet.series):
        own = OF_METHODS.get(name.split(",")[0])
        marks = [list(MARKS)[(index + i) % len(MARKS)] for i in range(len(MARKS))]
        free = [Style(c, m) for c in (*([own] if own else []), *COLOURS) for m in marks]
        used = Counter(style.colour for style in found.values())
        # all styles are in use if there are very many series
        unlike = [style for style in free if style not in found.values()] or free
        uses = [used[style.colour] for style in unlike]
        found[name] = unlike[uses.index(min(uses))]
    return found


def mark(axes: Axes, p: Point, x: float, style: Style, faint: bool, numbered: bool) -> None:
    """Draw a run with its interval; if `numbered`, its bits are inside the marker."""
    y, alpha = p.accuracy or 0.0, 0.35 if faint else 1.0
    if p.low is not None and p.high is not None and not faint:
        axes.vlines(x, p.low, p.high, color=style.colour, linewidth=1.2, alpha=0.5)
    size = 12 if numbered and not faint else 6
    axes.plot(
        x, y, style.mark, markersize=size, color=style.colour, alpha=alpha, markeredgewidth=0,
        zorder=2 if faint else 3,
    )  # fmt: skip
    if numbered and not faint:
        axes.annotate(
            p.label, (x, y), xytext=(0, MIDDLE.get(style.mark, 0)), textcoords="offset points",
            ha="center", va="center_baseline", color=ink(style.colour), fontweight="bold",
            fontsize=7 if len(p.label) < 3 else 5.5, annotation_clip=True,
        )  # fmt: skip


def arrows(axes: Axes, below: Sequence[tuple[float, Point, str]]) -> None:
    """Mark runs below the lower edge by arrows with their accuracies, stacked to avoid overlap."""
    placed: list[float] = []
    for x, p, colour in sorted(below, key=lambda arrow: arrow[0]):
        at = float((axes.transData + axes.transAxes.inverted()).transform((x, 0))[0])
        level = sum(abs(at - other) < 0.08 for other in placed)
        placed.append(at)
        axes.plot(
            at, 0.02, "v", markersize=5, color=colour, transform=axes.transAxes, clip_on=False
        )
        axes.annotate(
            formatting.number(p.accuracy, 1), (at, 0.02), xycoords="axes fraction",
            xytext=(0, 4 + 9 * level), textcoords="offset points", ha="center", va="bottom",
            color=canvas.INK, fontsize=8,
        )  # fmt: skip


def connect(
    axes: Axes,
    points: Sequence[Point],
    x: Callable[[Point], float | None],
    y: Callable[[Point], float | None],
    style: Style,
    shift: float,
) -> None:
    """Draw a line through the means of the runs at the same x."""
    places = sorted({round(x(p) or 0.0, 2) for p in points})
    means = [np.mean([y(p) for p in points if round(x(p) or 0.0, 2) == at]) for at in places]
    axes.plot(np.array(places) + shift, means, color=style.colour, linewidth=1.2, alpha=0.6)


def shifts(count: int) -> list[float]:
    """Horizontal offsets of the series, so that their intervals do not overlap."""
    step = min(0.06, 0.5 / max(count, 1))
    return [step * (i - (count - 1) / 2) for i in range(count)]
