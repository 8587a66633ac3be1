"""The figures of a run, with those of losses and times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipelines.machine.disk import replacing
from pipelines.reporting import canvas, formatting, mixed_plots, sensitivity_plots, training_plot
from pipelines.reporting.formatting import Results


def figures(results: Results, heatmaps: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure for which the results have values, by name.

    Args:
        results: content of results.json.
        heatmaps: [rows, columns] sensitivity of every weight of a few layers, numpy or torch.
    """
    drawn: dict[str, Figure | None] = {}
    with canvas.style():
        drawn["loss_per_layer"] = loss_per_layer(results)
        drawn["sensitivity"] = sensitivity_plots.per_layer(results)
        drawn["sensitivity_within_layers"] = sensitivity_plots.within_layers(heatmaps)
        drawn["tried"] = mixed_plots.tried(results)
        drawn["bits_per_layer"] = mixed_plots.bits_per_layer(results)
        drawn["couplings"] = mixed_plots.couplings(results)
        drawn["correlation"] = mixed_plots.correlation(results)
        drawn["training"] = training_plot.training(results)
        drawn["seconds_per_stage"] = seconds_per_stage(results)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save_all(drawn: Mapping[str, str], folder: Path) -> None:
    """Write figures, given as output of `canvas.svg`, to SVG files in `folder`, creating it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        with replacing(folder / f"{name}.svg") as draft:
            draft.write_text(canvas.on_white(figure), encoding="utf-8")


def relative_losses(layer: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Loss of the method and of the baseline relative to plain rounding of the same layer.

    If the baseline ran on some rows only, its loss is compared with the method's on those rows
    (`loss_on_baseline_rows`); without that figure the baseline's is None.
    """
    loss, rtn, baseline = (layer.get(key) for key in ("loss", "loss_rtn", "loss_baseline"))
    if loss is None or not rtn:
        return None, None
    method = float(loss / rtn)
    if baseline is None:
        return method, None
    if layer.get("baseline_rows") in (None, layer.get("rows")):
        return method, float(baseline / rtn)
    same_rows = layer.get("loss_on_baseline_rows")
    return method, method * float(baseline / same_rows) if same_rows else None


def loss_per_layer(results: Results) -> Figure | None:
    """Losses of method and baseline per layer, relative to plain rounding, on a log axis."""
    layers = [layer for layer in results.get("layers", ()) if relative_losses(layer)[0]]
    if not layers:
        return None
    figure = canvas.blank(0.9 + canvas.ROW * len(layers))
    axes = figure.add_subplot()
    method, baseline = zip(*(relative_losses(layer) for layer in layers), strict=True)
    y = np.arange(len(layers))
    axes.axvline(1, color=canvas.RTN, linewidth=1.6, label="rtn = 1")
    axes.hlines(y, method, 1, color=canvas.METHOD, alpha=0.25, linewidth=1.2)
    if any(baseline):
        some = np.array([value if value else np.nan for value in baseline], dtype=float)
        axes.plot(
            some, y, "D", markersize=6, markerfacecolor="none", markeredgecolor=canvas.BASELINE,
            markeredgewidth=1.5, label=formatting.baseline_name(results),
        )  # fmt: skip
    axes.plot(method, y, "o", markersize=5, color=canvas.METHOD, label=str(results.get("method")))
    canvas.name_rows(axes, [str(layer["name"]) for layer in layers])
    axes.set_xscale("log")
    values = [value for value in [*method, *baseline, 1.0] if value]
    axes.set_xlim(min(values) / 1.15, max(values) * 1.15)
    canvas.plain_log_ticks(axes.xaxis, min(values), max(values))
    axes.set_xlabel("layer loss relative to plain rounding (lower is better)")
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def seconds_per_stage(results: Results) -> Figure | None:
    """A bar per stage, hatched if the result came from the store."""
    stages = {
        name: value
        for name, value in (results.get("seconds") or {}).items()
        if name != "total" and value is not None
    }
    if not stages:
        return None
    cached = [bool(formatting.get(results, "cached", name)) for name in stages]
    figure = canvas.blank(0.7 + 0.3 * len(stages))
    axes = figure.add_subplot()
    colours = [canvas.BASELINE if name == "baseline" else canvas.METHOD for name in stages]
    bars = axes.barh(range(len(stages)), list(stages.values()), height=0.62, color=colours)
    for bar, stored in zip(bars, cached, strict=True):
        if stored:
            bar.set(facecolor="none", edgecolor=bar.get_facecolor(), hatch="////", linewidth=1)
    labels = [
        f"{formatting.seconds(value)}{' (from the store)' if stored else ''}"
        for value, stored in zip(stages.values(), cached, strict=True)
    ]
    axes.bar_label(bars, labels, padding=3)
    axes.set_xlim(0, 1.2 * max(stages.values()) or 1)
    canvas.name_rows(axes, list(stages))
    axes.set_xlabel("seconds")
    return figure
