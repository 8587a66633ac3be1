"""`obliq table FOLDERS --against README.md`: compare the tables of a document with runs.

A row belongs to a run if its leading cells (model, method, inputs, bits) match. Times depend on the
machine, and the settings shown depend on the other rows: neither counts as a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipelines.comparing.settings import OTHERS

Cells = Mapping[str, str]

KEYS = ("model", "method", "inputs", "bits")
ASIDE = {"solve s", "speed-up", OTHERS}


def rows_in(text: str) -> list[dict[str, str]]:
    """Rows, {column: cell}, of all Markdown tables in `text` with the columns KEYS."""
    found, columns = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if columns is None:
            columns = cells
        elif set(KEYS) <= set(columns) and not all(re.fullmatch(r":?-+:?", c) for c in cells):
            found.append(dict(zip(columns, cells, strict=False)))
    return found


def compared(document: Iterable[Cells], runs: Iterable[Cells]) -> tuple[list[str], int]:
    """Compare the rows of a document with those of runs.

    Args:
        document: rows of the document.
        runs: rows of the runs.

    Returns:
        (lines of a diff, number of figures that differ). A line starts with "-" for a row of the
        document that differs, "+" for the run's row, "?" for a row without a run, and "!" for a run
        without a row.
    """
    known, now = _by_key(document), _by_key(runs)
    lines, different = [], 0
    for key, written in known.items():
        here = now.get(key, [])
        if not here:
            lines += [f"? {_line(cells)}" for cells in written]
        for old in written if here else ():
            best = min(here, key=lambda new, old=old: len(_differ(old, new)))  # type: ignore[misc]
            columns = _differ(old, best)
            if columns:
                different += len(columns)
                lines += [f"- {_line(old)}", f"+ {_line(best)}    ({', '.join(columns)})"]
    lines += [f"! {_line(cells)}" for key in now if key not in known for cells in now[key]]
    return lines, different


def summary(document: Sequence[Cells], runs: Sequence[Cells], different: int) -> str:
    """ "50 rows in the document, 12 runs: 0 figures differ"."""
    return (
        f"{len(document)} rows in the document, {len(runs)} runs: {different} figures differ"
        "  (- document, + run, ? row without a run, ! run without a row; times do not count)"
    )


def _by_key(rows: Iterable[Cells]) -> dict[tuple[str, ...], list[Cells]]:
    found: dict[tuple[str, ...], list[Cells]] = {}
    for cells in rows:
        found.setdefault(tuple(cells.get(name, "") for name in KEYS), []).append(cells)
    return found


def _differ(old: Cells, new: Cells) -> list[str]:
    """Columns of figures that differ or that only one of the rows has."""
    return [name for name in {**old, **new} if name not in ASIDE and old.get(name) != new.get(name)]


def _line(cells: Cells) -> str:
    return " | ".join(cells.values())
