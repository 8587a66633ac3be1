"""A run's row of the table: text and sort key of every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.comparing import table
from pipelines.comparing.facets import Point, main_metric, mean_bits
from pipelines.comparing.settings import OTHERS
from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

FIRST = ("method", "inputs", "search", OTHERS, "seed")
ALWAYS = ("method", "bits", "quantized", "drop [95 %]", "solve s", "speed-up", "size")
TEXT = {"method", "inputs", "search", OTHERS}  # columns of text
FOLDED = ("KL", "SQNR dB", "tried", "MB")  # columns of interest to few readers
HEADS = {  # heading and unit, if the heading is not the column's name
    "float": ("float", "%"), "quantized": ("quantized", "%"), "drop [95 %]": ("drop", "points"),
    "agreement": ("agreement", "%"), "KL": ("KL", "nats"), "SQNR dB": ("SQNR", "dB"),
    "solve s": ("solve", "s"), "MB": ("cost", "MB"), "GBOPs": ("cost", "GBOPs"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Text and sort key of a cell; a key of None sorts last."""

    text: str
    value: float | str | None


def row(point: Point) -> dict[str, Cell]:
    """Cells by column: those of `pipelines.comparing.table`, and some that only the page shows.

    What the runs of a facet share (model, data, metric, images) is in its heading instead.
    """
    results = point.run.results or {}
    values, texts = _values(results), table.row(results)
    del texts["model"]
    texts |= {
        "seed": formatting.count(results.get("seed")),
        OTHERS: point.own,
        "size": formatting.size(formatting.get(results, "size_mb", "quantized")),
    }
    names = [n for n in FIRST if n in texts] + [n for n in texts if n not in FIRST]
    return {name: Cell(texts[name], values.get(name, texts[name])) for name in names}


def spread(groups: Sequence[Sequence[dict[str, Cell]]]) -> tuple[list[str], dict[str, str]]:
    """(columns to show, {column: text} for columns with the same text in every row).

    If runs differ in "search", that cell is merged into the cell of the other settings, in place.

    Args:
        groups: rows by facet. If the runs of every facet agree on the float network's metric, it
            is in the facets' headings and has no column.
    """
    rows = [cells for group in groups for cells in group]
    if len({_text(cells, "search") for cells in rows}) > 1:
        for cells in rows:
            how = cells.pop("search", Cell("", "")).text
            text = ", ".join(filter(None, (how, cells[OTHERS].text)))
            cells[OTHERS] = Cell(text, text)
    columns = list(dict.fromkeys(name for cells in rows for name in cells))
    texts = {name: {_text(cells, name) for cells in rows} for name in columns}
    alike = {
        name: next(iter(found))
        for name, found in texts.items()
        if len(found) == 1 and name not in (*ALWAYS, "float")
    }
    headed = {"float"} if all(len({_text(c, "float") for c in g}) == 1 for g in groups) else set()
    columns = [name for name in columns if name not in alike and name not in headed]
    return columns, {name: text for name, text in alike.items() if text}


def folded(columns: Sequence[str], rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """Columns to hide at first: of interest to few readers, or filled for few runs."""
    return [
        name
        for name in columns
        if name in FOLDED or sum(name in cells for cells in rows) < len(rows) / 2
    ]


def head(column: str) -> tuple[str, str]:
    """(heading, unit) of a column; the unit may be empty."""
    if column.startswith("ms, "):
        return "cost", column
    return HEADS.get(column, (column, ""))


def _text(cells: dict[str, Cell], name: str) -> str:
    return cells[name].text if name in cells else formatting.MISSING


def _values(results: Results) -> dict[str, Any]:
    """Sort keys by column."""
    get, metric = formatting.get, main_metric(results)
    return {
        "tried": get(results, "precision", "evaluations"),
        "MB": get(results, "costs", "size"),
        "GBOPs": get(results, "costs", "bops"),
        f"ms, {results.get('device')}": get(results, "costs", "roofline"),
        "seed": results.get("seed"),
        "bits": mean_bits(results),
        "float": get(results, "float", metric),
        "quantized": get(results, "quantized", metric),
        "drop [95 %]": get(results, "drop", "points"),
        "agreement": get(results, "fidelity", "agreement"),
        "KL": get(results, "fidelity", "kl"),
        "SQNR dB": get(results, "fidelity", "sqnr_db"),
        f"loss / {formatting.baseline_name(results)}": results.get("loss_ratio_vs_baseline"),
        "solve s": formatting.solve_seconds(results),
        "speed-up": results.get("speedup"),
        "size": get(results, "size_mb", "quantized"),
    }
