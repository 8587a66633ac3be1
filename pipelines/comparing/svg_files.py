"""The plots of a comparison as SVG files, each with a legend of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipelines.comparing import facets, markers, plots
from pipelines.comparing.discovery import Run
from pipelines.comparing.facets import Facet
from pipelines.machine.disk import replacing
from pipelines.reporting import canvas


def save_all(runs: Iterable[Run], folder: Path) -> list[Path]:
    """Write every plot of every facet into `folder` (created if missing).

    Returns:
        The files, named after model, data set and plot: "espnetv2-voc-bits.svg".
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for facet in facets.split(runs):
        for name, figure in plots.figures(facet).items():
            path = _free(folder, _slug(facet.model, facet.data, name), written)
            with replacing(path) as draft:
                draft.write_text(_with_legend(figure, facet, name), encoding="utf-8")
            written.append(path)
    return written


def _with_legend(figure: Figure, facet: Facet, name: str) -> str:
    """The plot `name` as SVG on white, with a title and a legend."""
    with canvas.style():
        handles = [
            Line2D(
                [],
                [],
                color=style.colour,
                marker=style.mark,
                markersize=6,
                linewidth=1.2,
                label=series,
            )
            for series, style in markers.styles(facet).items()
        ]
        level = "OBQ" if name == "speedup" else "float network"
        handles.append(
            Line2D([], [], color=canvas.INK, linewidth=0.8, linestyle=(0, (4, 3)), label=level)
        )
        figure.suptitle(plots.literal(f"{facet.title}: {facet.remark}"), fontsize=9.5)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return canvas.on_white(canvas.svg(figure))


def _slug(*parts: str) -> str:
    """The parts as one file name without spaces or separators of folders."""
    return "-".join(re.sub(r"[^\w.]+", "_", part).strip("_") for part in parts if part)


def _free(folder: Path, stem: str, taken: list[Path]) -> Path:
    """`stem`.svg; numbered where several facets share model and data set."""
    names = [stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 2))]
    return next(path for name in names if (path := folder / f"{name}.svg") not in taken)
