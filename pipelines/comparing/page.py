"""The HTML page: a single file that works offline, with a script to sort and compare."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipelines.comparing import cells, facets, layers, markers, plots
from pipelines.comparing.cells import Cell
from pipelines.comparing.discovery import STATES, Run
from pipelines.comparing.facets import Facet, Point
from pipelines.machine import clock
from pipelines.reporting import canvas, formatting, templates

SCRIPT = Path(__file__).with_name("page.js")
CAPTIONS = {
    "bits": "Accuracy against bits. Bars: 95 % interval from the paired drop; dashed: the float "
    "network.",
    "close": "Close-up near the float network; ▼ marks a run below the plot, with its accuracy.",
    "pareto": "Accuracy against size; markers show the bits. Line: Pareto front; dominated "
    "runs are faint.",
    "bops": "Accuracy against bit operations, with the Pareto front.",
    "latency": "Accuracy against latency by the roofline model, with the Pareto front.",
    "seconds": "Accuracy against solve time; markers show the bits. Times of different machines "
    "are not comparable.",
    "speedup": "Speed-up over OBQ in the same run; hollow if OBQ's time is an estimate.",
}


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the page, creating parent folders.

    Args:
        runs: from `discovery.find`.
        path: HTML file. Links to the runs' own reports are relative to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    script = SCRIPT.read_text(encoding="utf-8")
    split = facets.split(runs)
    rows = [[cells.row(point) for point in _ordered(facet)] for facet in split]
    columns, alike = cells.spread(rows)
    groups = [_group(facet, own, path) for facet, own in zip(split, rows, strict=True)]
    series = {p.run.number: n for facet in split for n, ps in facet.series.items() for p in ps}
    page = templates.template("comparing/page.html.j2").render(
        title=_title(split),
        found=_found(runs),
        generated=f"{clock.date():%Y-%m-%d %H:%M}",
        colours={"better": canvas.METHOD, "worse": canvas.BASELINE},
        columns=[(name, *cells.head(name)) for name in columns],
        text_columns=cells.TEXT,
        folded=cells.folded(columns, [cells_ for group in rows for cells_ in group]),
        alike=alike,
        repeated=_repeated(runs),
        groups=groups,
        others=[_other(run, path) for run in runs if run.results is None],
        drawn=[
            {"group": group, "title": title, **_drawn(facet, index)}
            for index, (facet, title, group) in enumerate(
                zip(split, _titles(split), groups, strict=True)
            )
            if group["drawn"]
        ],
        layer_data={"runs": layers.data(runs, series), "chosen": layers.first_two(runs)},
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path.write_text(page, encoding="utf-8")


def _title(split: Sequence[Facet]) -> str:
    titles = list(dict.fromkeys(facet.title for facet in split))
    shown = ", ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else "")
    return f"Quantized runs: {shown}" if shown else "Quantized runs"


def _titles(split: Sequence[Facet]) -> list[str]:
    """Headings of the facets; equal ones are extended by what differs."""
    titles = [facet.title for facet in split]
    for more in (
        [f"{formatting.count(facet.images)} images" for facet in split],
        [formatting.metric_name(facet.metric) for facet in split],
    ):
        count = Counter(titles)
        titles = [f"{t}, {m}" if count[t] > 1 else t for t, m in zip(titles, more, strict=True)]
    return titles


def _found(runs: Sequence[Run]) -> str:
    """ "12 runs: 10 done, 2 failed"."""
    count = Counter(run.state for run in runs)
    return f"{len(runs)} runs: " + ", ".join(f"{count[s]} {s}" for s in STATES if count[s])


def _repeated(runs: Sequence[Run]) -> list[str]:
    """Runs with the same settings: ["3, 7, 12"]."""
    same: dict[int, list[int]] = {}
    for run in runs:
        if run.same_as is not None and run.results is not None:
            same.setdefault(run.same_as, [run.same_as]).append(run.number)
    return [", ".join(map(str, numbers)) for numbers in same.values()]


def _ordered(facet: Facet) -> list[Point]:
    return sorted(facet.points, key=lambda point: point.run.number)


def _group(facet: Facet, rows: Sequence[Mapping[str, Cell]], page: Path) -> dict[str, Any]:
    """A facet's heading and its rows in the table."""
    best = {point.run.number for point in facets.front(facet.points)}
    styles = markers.styles(facet)
    of = {p.run.number: styles[name] for name, points in facet.series.items() for p in points}
    return {
        "title": facet.title,
        "remark": facet.remark,
        "shared": facet.shared,
        "drawn": len(facet.points) > 1,  # no plots for a single run
        "rows": [
            {
                **_where(point.run, page),
                "cells": cells_,
                "front": point.run.number in best,
                "style": of[point.run.number],
            }
            for point, cells_ in zip(_ordered(facet), rows, strict=True)
        ],
    }


def _where(run: Run, page: Path) -> dict[str, Any]:
    """Number, folder, remarks and report link of a run."""
    report = run.folder / "report.html"
    address = quote(os.path.relpath(report, page.resolve().parent)) if report.is_file() else None
    return {
        "number": run.number,
        "folder": str(run.folder),
        "parent": run.folder.parent.name,
        "name": run.folder.name,
        "report": address,
        "same_as": run.same_as,
        "reason": run.reason,
    }


def _other(run: Run, page: Path) -> dict[str, Any]:
    asked = run.asked
    overrides = asked.get("command") or [f"{k}={v}" for k, v in asked.items()]
    return {
        **_where(run, page),
        "state": run.state,
        "reason": run.reason or STATES[run.state],
        "asked": " ".join(overrides) or formatting.MISSING,
        "when": f"{run.when:%Y-%m-%d %H:%M}",
    }


def _drawn(facet: Facet, index: int) -> dict[str, Any]:
    """A facet's figures, their legend and warnings."""
    return {
        "warnings": _warnings(facet),
        "legend": markers.styles(facet),
        "figures": [
            (
                CAPTIONS[name.split(",")[0]],
                Markup(canvas.inline(canvas.svg(figure), f"f{index}_{number}")),
            )
            for number, (name, figure) in enumerate(plots.figures(facet).items())
        ],
    }


def _warnings(facet: Facet) -> list[str]:
    """Caveats for readers of a facet's plots."""
    warnings = []
    if len({formatting.number(value) for value in facet.floats}) > 1:
        warnings.append(
            "The runs differ in the float network's accuracy: other weights, images or arithmetic"
        )
    missing = [str(p.run.number) for p in facet.points if p.bits is None or p.accuracy is None]
    if missing:
        warnings.append(f"Not plotted for lack of bits or accuracy: run {', '.join(missing)}")
    machines = {str((p.run.results or {}).get("machine", {})) for p in facet.points}
    if len(machines) > 1:
        warnings.append("The machines or their settings differ: solve times are not comparable")
    return warnings
