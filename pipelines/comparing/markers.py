"""How a series is drawn: its colour, and the marks of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from pipelines.comparing.facets import Facet, Point
from pipelines.reporting import canvas, formatting

OF_METHODS = {"row_parallel": canvas.METHOD, "obq": canvas.BASELINE, "rtn": canvas.RTN}
COLOURS = ("#3a9d5d", "#9a6fc9", "#d1495b", "#1ba3a3", "#b07d2b", "#d670ad", "#6b7fd7", "#7d9a1f")
MARKS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "p": "⬟", "h": "⬢"}


@dataclass(frozen=True)
class Look:
    """How a series is drawn."""

    colour: str
    mark: str

    @property
    def sign(self) -> str:
        """The mark as a character, for a legend in text."""
        return MARKS[self.mark]


def looks(facet: Facet) -> dict[str, Look]:
    """A colour and a mark per series; a method has the same colour in every facet."""
    taken, found = set[str](), {}
    others = [colour for colour in COLOURS for _ in MARKS]  # used up only by very many series
    for index, name in enumerate(facet.series):
        colour = OF_METHODS.get(name.split(",")[0], "")
        if not colour or colour in taken:
            colour = next((c for c in COLOURS if c not in taken), others[index % len(others)])
        taken.add(colour)
        found[name] = Look(colour, list(MARKS)[index % len(MARKS)])
    return found


def mark(axes: Axes, p: Point, x: float, look: Look, faint: bool, numbered: bool) -> None:
    """A run with its interval; its bits stand in the mark where no axis says them."""
    y, alpha = p.accuracy or 0.0, 0.35 if faint else 1.0
    if p.low is not None and p.high is not None and not faint:
        axes.vlines(x, p.low, p.high, color=look.colour, linewidth=1.2, alpha=0.5)
    size = 12 if numbered and not faint else 6
    axes.plot(
        x, y, look.mark, markersize=size, color=look.colour, alpha=alpha, markeredgewidth=0,
        zorder=2 if faint else 3,
    )  # fmt: skip
    if numbered and not faint:
        axes.annotate(
            p.label, (x, y), ha="center", va="center_baseline", color="white", fontsize=7,
            fontweight="bold", annotation_clip=True,
        )  # fmt: skip


def arrows(axes: Axes, below: Sequence[tuple[float, Point, str]]) -> None:
    """Runs below the lower edge: an arrow each, and the accuracies above it, one over another."""
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
            color=colour, fontsize=8,
        )  # fmt: skip


def connect(
    axes: Axes,
    points: Sequence[Point],
    x: Callable[[Point], float | None],
    y: Callable[[Point], float | None],
    look: Look,
    shift: float,
) -> None:
    """A line through the means of the runs at the same place."""
    places = sorted({round(x(p) or 0.0, 2) for p in points})
    means = [np.mean([y(p) for p in points if round(x(p) or 0.0, 2) == at]) for at in places]
    axes.plot(np.array(places) + shift, means, color=look.colour, linewidth=1.2, alpha=0.6)


def shifts(count: int) -> list[float]:
    """Steps to the side, so that intervals of several series do not cover each other."""
    step = min(0.06, 0.5 / max(count, 1))
    return [step * (i - (count - 1) / 2) for i in range(count)]
