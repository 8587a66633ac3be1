"""Tables for papers and spreadsheets: Markdown, LaTeX, CSV. One facet is one table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from pipelines.comparing import facets, settings, table
from pipelines.comparing.discovery import STATES, Run
from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"$\sim$", "^": r"\textasciicircum{}", "−": "$-$",
    "×": r"$\times$", "–": "--", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip


def markdown(runs: Sequence[Run]) -> str:
    """A table per facet, then remarks on runs that are in no table or repeat another run."""
    parts = []
    for facet in facets.split(runs):
        results = [run.results for run in facet.runs if run.results]
        rows, shared = table.rows(results)
        also = f"; all with `{shared}`" if shared else ""
        parts.append(f"**{facet.title}**: {facet.remark}{also}\n\n{table.markdown(rows)}\n")
    remarks = [f"- {text}" for text in _remarks(runs)]
    return "\n".join([*parts, *(["\n".join(remarks) + "\n"] if remarks else [])])


def latex(runs: Sequence[Run]) -> str:
    r"""A `table` environment per facet, for a document with `\usepackage{booktabs}`."""
    lines = [f"% {' '.join(text.split())}" for text in _remarks(runs)]
    for facet in facets.split(runs):
        rows, shared = table.rows([run.results for run in facet.runs if run.results])
        also = rf"; all with \texttt{{{escape(shared)}}}" if shared else ""
        columns = [
            name for name in dict.fromkeys(n for row in rows for n in row) if name != "model"
        ]
        aligned = "".join("l" if name in table.LEFT else "r" for name in columns)
        lines += [
            r"\begin{table}", r"\centering", r"\small",
            rf"\caption{{{escape(facet.title)}: {escape(facet.remark)}{also}.}}",
            rf"\begin{{tabular}}{{{aligned}}}", r"\toprule",
            " & ".join(map(escape, columns)) + r" \\", r"\midrule",
            *(" & ".join(escape(row.get(name, formatting.MISSING)) for name in columns) + r" \\"
              for row in rows),
            r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return re.sub(r"[\\&%$#_{}~^−×–<>|]", lambda found: LATEX[found[0]], " ".join(text.split()))


def table_csv(runs: Sequence[Run]) -> str:
    """Every run in any state, at full precision."""
    rows = [_row(run) for run in runs]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _remarks(runs: Sequence[Run]) -> list[str]:
    remarks = []
    for run in runs:
        if run.state != "done":
            why = f": {run.reason}" if run.reason and run.state != "started" else ""
            remarks.append(f"Not in a table: {run.folder} ({STATES[run.state]}{why})")
        elif run.same_as is not None:
            remarks.append(f"Run {run.number} ({run.folder}) has the settings of run {run.same_as}")
    return remarks


def _row(run: Run) -> dict[str, Any]:
    results: Results = run.results or {}
    get, metric = formatting.get, facets.main_metric(results)
    ends = get(results, "drop", "ci95") or (None, None)
    keys = ("experiment", "model", "data", "method")
    return {
        "run": run.number,
        "state": run.state,
        "same_as": run.same_as,
        "folder": run.folder,
        **{key: results.get(key, run.asked.get(key)) for key in keys},
        "inputs": results.get("inputs"),
        "weight_bits": results.get("weight_bits", run.asked.get("bits")),
        "act_bits": results.get("act_bits", run.asked.get("act_bits")),
        "mean_bits": facets.mean_bits(results),
        "seed": results.get("seed", run.asked.get("seed")),
        "other_settings": " ".join(settings.overrides(results or run.asked)),
        "n_images": results.get("n_images"),
        "metric": metric or None,
        "float": get(results, "float", metric),
        "quantized": get(results, "quantized", metric),
        "drop": get(results, "drop", "points"),
        "drop_low": ends[0],
        "drop_high": ends[1],
        **{key: get(results, "fidelity", key) for key in ("agreement", "kl", "sqnr_db")},
        "loss_ratio_vs_baseline": results.get("loss_ratio_vs_baseline"),
        "solve_seconds": formatting.solve_seconds(results),
        "baseline_seconds": get(results, "baseline", "seconds"),
        "baseline_estimated": get(results, "baseline", "estimated"),
        "speedup": results.get("speedup"),
        "size_mb_float": get(results, "size_mb", "float"),
        "size_mb": get(results, "size_mb", "quantized"),
        "reason": run.reason,
    }
