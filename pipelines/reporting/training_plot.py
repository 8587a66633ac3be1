"""The figure of the training of the rounding."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.reporting import canvas
from pipelines.reporting.formatting import Results


def training(results: Results) -> Figure | None:
    """Training loss, and KL of the hard-rounded network on held-out images, by step."""
    trained = results.get("rounding") or {}
    curve = [row for row in trained.get("curve") or () if row[1] is not None]
    if not curve:
        return None
    figure = canvas.blank(2.6)
    left, right = figure.subplots(1, 2)
    left.plot([row[0] for row in curve], [row[1] for row in curve], color=canvas.METHOD)
    left.set_ylim(0, 1.08 * max(row[1] for row in curve))
    left.set_ylabel("loss of the last step")
    known = [(row[0], row[2]) for row in curve if row[2] is not None]
    steps, divergence = [0, *(s for s, _ in known)], [trained["kl_before"], *(k for _, k in known)]
    right.plot(steps, divergence, "o-", markersize=4, color=canvas.METHOD)
    right.axhline(trained["kl_before"], color=canvas.BASELINE, linewidth=1, label="start")
    if trained.get("kept") and "best_step" in trained:
        best = ([trained["best_step"]], [trained["kl_after"]])
        right.plot(*best, "o", markersize=10, fillstyle="none", color=canvas.INK, label="best")
    right.set_ylim(0, 1.08 * max(divergence))
    right.set_ylabel("KL, held-out images")
    right.legend(loc="best")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
    return figure
