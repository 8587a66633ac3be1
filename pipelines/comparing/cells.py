"""A run's row of the table: every cell as text, and as the value that sorts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.comparing import settings, table
from pipelines.comparing.facets import main_metric, mean_bits
from pipelines.comparing.settings import OTHERS
from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

FIRST = ("model", "data", "metric", "images", "method", "inputs", "search", OTHERS, "seed")
ALWAYS = ("method", "bits", "float", "quantized", "drop [95 %]", "solve s", "speed-up", "size")


@dataclass(frozen=True)
class Cell:
    """What is read, and what is sorted by; None sorts last."""

    text: str
    value: float | str | None


def row(results: Results) -> dict[str, Cell]:
    """Cells by column: those of `pipelines.comparing.table`, and what only a page has room for."""
    values = _values(results)
    texts = table.row(results) | {
        "data": str(results.get("data") or formatting.MISSING),
        "images": formatting.count(results.get("n_images")),
        "metric": formatting.metric_name(main_metric(results)),
        "seed": formatting.count(results.get("seed")),
        OTHERS: " ".join(settings.others(results)),
        "size": formatting.size(formatting.get(results, "size_mb", "quantized")),
    }
    names = [n for n in FIRST if n in texts] + [n for n in texts if n not in FIRST]
    return {name: Cell(texts[name], values.get(name, texts[name])) for name in names}


def spread(rows: Sequence[dict[str, Cell]]) -> tuple[list[str], dict[str, str]]:
    """(columns worth a column, {column: text} of those that say the same in every row).

    Other settings that all rows have are taken out of the rows, in place.
    """
    shared = _take_out_shared(rows)
    columns = list(dict.fromkeys(name for cells in rows for name in cells))
    texts = {name: {_text(cells, name) for cells in rows} for name in columns}
    alike = {
        name: next(iter(found))
        for name, found in texts.items()
        if len(found) == 1 and name not in ALWAYS
    }
    left_out = {*alike, *(name for name in ("metric", "images") if _follows(rows, name))}
    said = alike | ({OTHERS: shared} if shared else {})
    columns = [name for name in columns if name not in left_out]
    return columns, {name: text for name, text in said.items() if text}


def _take_out_shared(rows: Sequence[dict[str, Cell]]) -> str:
    """Other settings that every row has."""
    shared, own = settings.apart([cells[OTHERS].text.split() for cells in rows])
    for cells, text in zip(rows, own, strict=True):
        cells[OTHERS] = Cell(text, text)
    return shared


def _follows(rows: Sequence[dict[str, Cell]], name: str) -> bool:
    """Whether model and data say it already: it then stands above their plots."""
    known: dict[tuple[str, ...], str] = {}
    return all(
        known.setdefault((_text(cells, "model"), _text(cells, "data")), _text(cells, name))
        == _text(cells, name)
        for cells in rows
    )


def _text(cells: dict[str, Cell], name: str) -> str:
    return cells[name].text if name in cells else formatting.MISSING


def _values(results: Results) -> dict[str, Any]:
    """The numbers behind the texts."""
    get, metric = formatting.get, main_metric(results)
    return {
        "images": results.get("n_images"),
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
