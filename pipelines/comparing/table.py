"""`obliq table FOLDERS... [--markdown | --against FILE]`: many runs in one table.

Reads every `results.json` below the given folders. "~" marks an estimate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.comparing import differing, identity, table_diff
from pipelines.comparing.settings import OTHERS
from pipelines.reporting import formatting, results_file
from pipelines.reporting.formatting import Results

LEFT = {*table_diff.KEYS, OTHERS}  # left-aligned columns: text and bit widths


class BrokenResultsError(ValueError):
    """A results file that cannot be read."""


def collect(folders: Iterable[Path]) -> list[Results]:
    """Every run below the folders, sorted by model, bits and method; each file once.

    Args:
        folders: searched recursively; may also be paths to JSON files.

    Raises:
        FileNotFoundError: a folder does not exist, or there is no results.json below any.
        BrokenResultsError: files cannot be read; the message gives the reason for each.
    """
    folders = list(folders)
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        raise FileNotFoundError(f"no such folder: {', '.join(missing)}")
    files = dict.fromkeys(
        path.resolve()
        for folder in folders
        for path in ([folder] if folder.is_file() else sorted(folder.rglob("results.json")))
    )
    if not files:
        raise FileNotFoundError(
            f"no results.json below {', '.join(map(str, folders))}: a run writes it when it "
            "ends; pass its output folder or a parent of it"
        )
    runs, broken = [], []
    for path in files:
        try:
            runs.append(results_file.load(path))
        except (OSError, ValueError) as error:
            broken.append(f"  {path}: {error}")
    if broken:
        raise BrokenResultsError(
            f"{len(broken)} of {len(files)} results cannot be read; remove or rerun "
            "them:\n" + "\n".join(broken)
        )
    named = [run for run in identity.told_apart(runs) if run is not None]
    return sorted(named, key=results_file.order)


def row(results: Results) -> dict[str, str]:
    """A run's cells by column."""
    keys = formatting.metrics(results)
    key = keys[0] if keys else ""
    get, number = formatting.get, formatting.number
    weight, activation = results.get("weight_bits"), results.get("act_bits")
    ratio = number(results.get("loss_ratio_vs_baseline"), 3)
    return {
        "model": str(results.get("model") or formatting.MISSING),
        "method": str(results.get("method") or formatting.MISSING),
        "inputs": str(results.get("inputs") or formatting.MISSING),
        "bits": f"{'mixed' if weight is None else weight}"
        + (f"/{activation}" if activation is not None else ""),
        "float": number(get(results, "float", key)),
        "quantized": number(get(results, "quantized", key)),
        "drop [95 %]": formatting.drop(results),
        "agreement": number(get(results, "fidelity", "agreement")),
        "KL": formatting.scientific(get(results, "fidelity", "kl")),
        "SQNR dB": number(get(results, "fidelity", "sqnr_db"), 1),
        f"loss / {formatting.baseline_name(results)}": ratio,
        "solve s": number(formatting.solve_seconds(results)),
        "speed-up": formatting.speedup(results),
        **_searched(results),
    }


def rows(runs: Sequence[Results]) -> tuple[list[dict[str, str]], str]:
    """(cells of every run, overrides without a column that all runs share).

    If runs differ in such overrides, these get the column "other settings".
    """
    shared, own = differing.split(runs)
    cells = [
        row(results) | ({OTHERS: " ".join(settings)} if any(own) else {})
        for results, settings in zip(runs, own, strict=True)
    ]
    return cells, " ".join(shared)


def _searched(results: Results) -> dict[str, str]:
    """Additional cells of a run with a bit search: the search and the resulting costs."""
    how = formatting.search(results)
    if how is None:
        return {}
    costs = results.get("costs") or {}
    return {
        "search": how,
        "tried": str(formatting.get(results, "precision", "evaluations")),
        "MB": formatting.scientific(costs.get("size")),
        "GBOPs": formatting.scientific(costs.get("bops")),
        f"ms, {results.get('device')}": formatting.scientific(costs.get("roofline")),
    }


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Cells by column as a Markdown table, padded for a readable source."""
    columns = list(dict.fromkeys(column for cells in rows for column in cells))
    table = [
        [cells.get(column, formatting.MISSING).replace("|", "\\|") for column in columns]
        for cells in rows
    ]
    widths = [max(map(len, cells)) for cells in zip(columns, *table, strict=True)]
    left = [column in LEFT for column in columns]
    rule = [
        "-" * w if flush else "-" * (w - 1) + ":" for w, flush in zip(widths, left, strict=True)
    ]
    lines = [
        [text.ljust(w) if flush else text.rjust(w)
         for text, w, flush in zip(cells, widths, left, strict=True)]
        for cells in [columns, rule, *table]
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def show(runs: Sequence[Results], console: Console) -> None:
    """Print the table of the runs; lines wider than the terminal are not wrapped."""
    found, shared = rows(runs)
    columns = list(dict.fromkeys(column for cells in found for column in cells))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right", no_wrap=True)
    for cells in found:
        table.add_row(*(Text(cells.get(column, formatting.MISSING)) for column in columns))
    unlimited = console.options.update(width=10_000)
    console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)
    if shared:
        console.print(f"all with {shared}", soft_wrap=True)


def _against(file: Path, runs: Sequence[Results]) -> int:
    """Print how a document differs from the runs; returns 1 if any figure differs, else 0."""
    written, found = table_diff.rows_in(file.read_text(encoding="utf-8")), [row(r) for r in runs]
    lines, different = table_diff.compared(written, found)
    print("\n".join([*lines, table_diff.summary(written, found, different)]))
    return 1 if different else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 1 after an error or if figures differ."""
    parser = argparse.ArgumentParser(prog="obliq table", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="output folders of runs or sweeps")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="compare with the tables in a Markdown file"
    )
    options = parser.parse_args(arguments)
    try:
        runs = collect(options.folders)
        if options.against:
            return _against(options.against, runs)
    except (FileNotFoundError, BrokenResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.markdown:
        print(markdown(rows(runs)[0]))
    else:
        show(runs, Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
