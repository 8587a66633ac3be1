"""A run's row of the table: every cell as text, and as the value that sorts it."""

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
WORDS = {"method", "inputs", "search", OTHERS}  # columns of text
FOLDED = ("KL", "SQNR dB", "tried", "MB")  # columns that few readers want
HEADS = {  # heading and unit, where the column's name is not the heading
    "float": ("float", "%"), "quantized": ("quantized", "%"), "drop [95 %]": ("drop", "points"),
    "agreement": ("agreement", "%"), "KL": ("KL", "nats"), "SQNR dB": ("SQNR", "dB"),
    "solve s": ("solve", "s"), "MB": ("cost", "MB"), "GBOPs": ("cost", "GBOPs"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What is read, and what is sorted by; None sorts last."""

    text: str
    value: float | str | None


def row(point: Point) -> dict[str, Cell]:
    """Cells by column: those of `pipelines.comparing.table`, and what only a page has room for.

    What all runs of a facet have in common (model, data, metric, images) stands above their rows.
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
    """(columns worth a column, {column: text} of those that say the same in every row).

    How bits were searched is put in front of the other settings, in place, unless it is the latter.

    Args:
        groups: rows, facet by facet. Where the runs of each agree on the float network, the
            heading of a facet says what it reaches, and the table does not.
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
    said = {"float"} if all(len({_text(c, "float") for c in g}) == 1 for g in groups) else set()
    columns = [name for name in columns if name not in alike and name not in said]
    return columns, {name: text for name, text in alike.items() if text}


def folded(columns: Sequence[str], rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """Columns that a page need not show at once: few readers want them, or few runs have them."""
    return [
        name
        for name in columns
        if name in FOLDED or sum(name in cells for cells in rows) < len(rows) / 2
    ]


def head(column: str) -> tuple[str, str]:
    """(heading, unit or "") of a column."""
    if column.startswith("ms, "):
        return "cost", column
    return HEADS.get(column, (column, ""))


def _text(cells: dict[str, Cell], name: str) -> str:
    return cells[name].text if name in cells else formatting.MISSING


def _values(results: Results) -> dict[str, Any]:
    """The numbers behind the texts."""
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
