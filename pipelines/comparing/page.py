"""The page: one file that opens without a network. Its script sorts, and compares layers."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipelines.comparing import cells, facets, layers, markers, plots, settings
from pipelines.comparing.discovery import STATES, Run
from pipelines.comparing.facets import Facet
from pipelines.reporting import canvas, formatting, templates

SCRIPT = Path(__file__).with_name("page.js")
WORDS = {"model", "data", "metric", "method", "inputs", "search", settings.OTHERS}
CAPTIONS = {
    "bits": "Accuracy against bits. Lines at the marks: 95 % interval, the paired one of the drop; "
    "dashed: the float network.",
    "close": "The same close to the float network; ▼ stands below, with its accuracy.",
    "pareto": "Accuracy against size, the bits in the marks. The line is the front: nothing is as "
    "small and better; runs behind it are faint.",
    "bops": "Accuracy against bit operations, with their front.",
    "latency": "Accuracy against latency by the roofline model, with its front.",
    "seconds": "Accuracy against the time of solving, the bits in the marks. Times of different "
    "machines do not compare.",
    "speedup": "Speed-up over OBQ in the same run; hollow where OBQ's time is an estimate.",
}


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the page; the folders above it are made.

    Args:
        runs: of `finding.find`.
        path: HTML file. Links to the runs' own reports are relative to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    script = SCRIPT.read_text(encoding="utf-8")
    split = facets.split(runs)
    best = {p.run.number for facet in split for p in facets.front(facet.points)}
    rows = {run.number: cells.row(run.results) for run in runs if run.results is not None}
    columns, alike = cells.spread(list(rows.values()))
    page = templates.template("comparing/page.html.j2").render(
        title=_title(split),
        found=_found(runs),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        colours={"better": canvas.METHOD, "worse": canvas.BASELINE},
        columns=columns,
        numbers=set(columns) - WORDS,
        alike=alike,
        repeated=any(run.same_as for run in runs),
        rows=[
            {**_where(run, path), "cells": rows[run.number], "front": run.number in best}
            for run in runs
            if run.number in rows
        ],
        others=[_other(run, path) for run in runs if run.number not in rows],
        facets=[_facet(facet, index) for index, facet in enumerate(split)],
        layer_data={"runs": layers.data(runs), "chosen": layers.first_two(runs)},
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path.write_text(page, encoding="utf-8")


def _title(split: Sequence[Facet]) -> str:
    titles = list(dict.fromkeys(facet.title for facet in split))
    shown = ", ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else "")
    return f"Quantized runs: {shown}" if shown else "Quantized runs"


def _found(runs: Sequence[Run]) -> str:
    """ "12 runs: 10 done, 2 failed"."""
    count = Counter(run.state for run in runs)
    return f"{len(runs)} runs: " + ", ".join(f"{count[s]} {s}" for s in STATES if count[s])


def _where(run: Run, page: Path) -> dict[str, Any]:
    """Number, folder and remarks of a run, and the address of its own report."""
    report = run.folder / "report.html"
    address = quote(os.path.relpath(report, page.resolve().parent)) if report.is_file() else None
    return {
        "number": run.number,
        "folder": str(run.folder),
        "short": "/".join(run.folder.parts[-2:]),
        "report": address,
        "same_as": run.same_as,
        "reason": run.reason,
    }


def _other(run: Run, page: Path) -> dict[str, Any]:
    asked = run.asked
    words = settings.get("command") or [f"{k}={v}" for k, v in settings.items()]
    return {
        **_where(run, page),
        "state": run.state,
        "reason": run.reason or STATES[run.state],
        "asked": " ".join(words) or formatting.MISSING,
        "when": f"{run.when:%Y-%m-%d %H:%M}",
    }


def _facet(facet: Facet, index: int) -> dict[str, Any]:
    legend = [(name, look.colour, look.sign) for name, look in markers.looks(facet).items()]
    return {
        "title": facet.title,
        "remark": facet.remark,
        "warnings": _warnings(facet),
        "legend": legend,
        "figures": [
            (
                CAPTIONS[name.split(",")[0]],
                Markup(canvas.inline(canvas.svg(figure), f"f{index}_{number}")),
            )
            for number, (name, figure) in enumerate(plots.figures(facet).items())
        ],
    }


def _warnings(facet: Facet) -> list[str]:
    """What a reader of the plots must know."""
    said = []
    if len({formatting.number(value) for value in facet.floats}) > 1:
        said.append("The runs disagree on the float network: other weights, images or arithmetic")
    lost = [str(p.run.number) for p in facet.points if p.bits is None or p.accuracy is None]
    if lost:
        said.append(f"Without bits or accuracy, hence in no plot of them: run {', '.join(lost)}")
    machines = {str((p.run.results or {}).get("machine", {})) for p in facet.points}
    if len(machines) > 1:
        said.append("Solved on more than one machine, or with other settings of it")
    return said
