"""Figures of the sensitivity of layers, bit widths and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.reporting import canvas
from pipelines.reporting.formatting import Results


def per_layer(results: Results) -> Figure | None:
    """Predicted loss of every layer at every bit width, and its clustering by column."""
    layers = [layer for layer in results.get("layers", ()) if layer.get("predicted_loss")]
    if not layers:
        return None
    widths = sorted({int(bits) for layer in layers for bits in layer["predicted_loss"]})
    table = np.array(
        [[layer["predicted_loss"].get(str(b)) for b in widths] for layer in layers], dtype=float
    )
    figure = canvas.blank(1.3 + canvas.ROW * len(layers))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.5, 1])
    mesh = left.imshow(table, aspect="auto", cmap="viridis", norm=_log_norm(table))
    left.set_xticks(range(len(widths)), [str(b) for b in widths])
    left.set_xlabel("bits (dot: the bits this run used)")
    used = [(widths.index(layer["bits"]), i) for i, layer in enumerate(layers)
            if layer.get("bits") in widths]  # fmt: skip
    if used:
        left.plot(
            *zip(*used, strict=True), "o", markersize=4.5, color="white", mec="black", mew=0.6
        )
    canvas.name_rows(left, [str(layer["name"]) for layer in layers])
    left.grid(False)
    bar = figure.colorbar(mesh, ax=left, location="top", fraction=0.03, pad=0.01, aspect=40)
    bar.set_label("predicted loss of the layer", labelpad=6)
    canvas.powers(bar.ax.xaxis)
    cluster = np.array([layer.get("cluster") for layer in layers], dtype=float)
    y = np.arange(len(layers))
    right.hlines(y, 0, cluster, color=canvas.METHOD, alpha=0.35, linewidth=1.5)
    right.plot(cluster, y, "o", markersize=5, color=canvas.METHOD, clip_on=False)
    right.set_xlim(0, 1)
    right.grid(axis="x")
    right.yaxis.set_visible(False)  # the names are on the left
    right.set_xlabel("clustering by column (0 none, 1 full)")
    return figure


def within_layers(heatmaps: Mapping[str, Any]) -> Figure | None:
    """Sensitivity of every weight of a few layers on one scale; stripes are sensitive columns."""
    maps = {name: _matrix(values) for name, values in heatmaps.items()}
    maps = {name: values for name, values in maps.items() if (values > 0).any()}
    if not maps:
        return None
    lines = (len(maps) + 1) // 2
    figure = canvas.blank(0.3 + 2.3 * lines)
    grid = figure.subplots(lines, min(2, len(maps)), squeeze=False).ravel()
    norm = _log_norm(np.concatenate([values.ravel() for values in maps.values()]))
    for axes, (name, values) in zip(grid, maps.items(), strict=False):
        image = axes.imshow(values, aspect="auto", cmap="magma", norm=norm, interpolation="nearest")
        axes.set_title(name, fontsize=9.5, loc="left")
        axes.set(xlabel="column (input)", ylabel="row (output)")
    bar = figure.colorbar(image, ax=list(grid), fraction=0.03, pad=0.02, aspect=40)
    bar.set_label("sensitivity of a weight")
    canvas.powers(bar.ax.yaxis)
    for axes in grid[len(maps) :]:
        axes.set_axis_off()
    return figure


def _log_norm(values: NDArray[np.float64]) -> LogNorm:
    """A log scale over the positive values, at most eight decades; lower values are clipped."""
    positive = values[np.isfinite(values) & (values > 0)]
    high = float(positive.max()) if positive.size else 1.0
    low = float(max(np.quantile(positive, 0.01), high * 1e-8)) if positive.size else 0.1
    return LogNorm(vmin=low if low < high else high / 10, vmax=high, clip=True)


def _matrix(values: Any, limit: int = 600) -> NDArray[np.float64]:
    """[rows, columns] as float64; sides longer than `limit` are reduced by averaging neighbours."""
    matrix = np.nan_to_num(np.asarray(values, dtype=np.float64))
    for axis in (0, 1):
        step = -(-matrix.shape[axis] // limit)
        starts = np.arange(0, matrix.shape[axis], step)
        sizes = np.diff(np.append(starts, matrix.shape[axis]))
        total = np.add.reduceat(matrix, starts, axis=axis)
        matrix = total / (sizes[:, None] if axis == 0 else sizes)
    return matrix
