"""Figures of mixed precision: configurations tried, bits per layer, couplings, correlation."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.reporting import canvas, formatting
from pipelines.reporting.formatting import Results

NAMED = 40  # maximum number of layer names at a matrix


def tried(results: Results) -> Figure | None:
    """Metric against cost of every configuration that the search evaluated."""
    found = results.get("precision")
    if not found:
        return None
    figure = canvas.blank(3.4)
    axes = figure.add_subplot()
    cost, value = np.array(found["tried"], dtype=float).T
    required = found["target"] * found["float"]
    met = value >= required
    axes.axhline(found["float"], color=canvas.RTN, linewidth=1.2, label="float")
    axes.axhline(required, color=canvas.BASELINE, linewidth=1.2, label=f"target, {required:.2f} %")
    axes.plot(
        cost[met], value[met], "o", color=canvas.METHOD, markersize=6, label="meets the target"
    )
    axes.plot(
        cost[~met], value[~met], "o", markersize=6, markerfacecolor="none",
        markeredgecolor=canvas.METHOD, label="misses the target",
    )  # fmt: skip
    chosen = found["costs"][found["cost"]]
    axes.plot([chosen], [found["value"]], "*", color=canvas.BASELINE, markersize=15, label="chosen")
    axes.set_xlabel(f"{found['cost']} ({found['unit']})")
    axes.set_ylabel(f"{_measure(results)} on calibration images, %")
    axes.grid(axis="y")
    figure.legend(loc="outside upper right", ncols=5)
    return figure


def bits_per_layer(results: Results) -> Figure | None:
    """A bar chart of the bits of every layer."""
    layers = results.get("layers") or ()
    if not results.get("precision") or not layers:
        return None
    figure = canvas.blank(0.8 + canvas.ROW * len(layers))
    axes = figure.add_subplot()
    bits = [layer["bits"] for layer in layers]
    bars = axes.barh(range(len(bits)), bits, height=0.7, color=canvas.METHOD)
    axes.bar_label(bars, [str(b) for b in bits], padding=3)
    canvas.name_rows(axes, [str(layer["name"]) for layer in layers])
    axes.set_xlim(0, 1.08 * max(bits))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("weight bits")
    return figure


def couplings(results: Results) -> Figure | None:
    """Couplings of pairs of layers at their bits: red: errors add up, blue: they cancel."""
    found = (results.get("precision") or {}).get("couplings") or {}
    names, matrix = found.get("layers") or [], np.array(found.get("matrix") or [[]], dtype=float)
    if len(names) < 2:
        return None
    scale = np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
    shown = np.divide(matrix, scale, out=np.zeros_like(matrix), where=scale > 0)
    figure = canvas.blank(7.2 if len(names) > 12 else 5.0)
    axes = figure.add_subplot()
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="equal")
    step = -(-len(names) // NAMED)
    at = range(0, len(names), step)
    shown_names = canvas.short(names)
    axes.set_yticks(at, [shown_names[i] for i in at])
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.7, label="A_ij / √(A_ii A_jj)")
    return figure


def correlation(results: Results) -> Figure | None:
    """Predicted against measured divergence of random configurations, one panel per metric."""
    found = (results.get("precision") or {}).get("correlation")
    if not found:
        return None
    points = found["points"]
    figure = canvas.blank(2.9)
    panels = np.atleast_1d(figure.subplots(1, len(points) + 1))
    for axes, name in zip(panels, points, strict=False):
        x, y = np.array(points[name], dtype=float).T
        axes.plot(x, y, "o", markersize=3, alpha=0.6, color=canvas.METHOD)
        axes.set_title(f"{name.replace('_', ' ')}\nρ = {found['random'][name]:.2f}", fontsize=9)
    x, y = np.array(found["pair_points"], dtype=float).T
    panels[-1].plot(x, y, "o", markersize=3, alpha=0.6, color=canvas.BASELINE)
    panels[-1].set_title(f"pairs' excess\nρ = {found['pairs']:.2f}", fontsize=9)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("predicted")
    panels[0].set_ylabel("measured KL")
    return figure


def _measure(results: Results) -> str:
    found = results["precision"]
    if found["measure"] == "agreement":
        return "agreement"
    return formatting.metric_name(str(results.get("metric")))
