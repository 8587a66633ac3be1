"""The summary table at the end of a run: accuracy, speed, size and files."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.reporting import coverage, formatting
from pipelines.reporting.formatting import Results


def print_table(results: Results, console: Console) -> None:
    """Print the results in about 20 lines of 80 columns."""
    table = Table(
        box=box.SIMPLE,
        show_header=False,
        title=Text(
            f"{results.get('model')}: {formatting.bits(results)} by {results.get('method')}"
        ),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(results):
        table.add_row(name, value)
    console.print(table)


def nearby(path: str | Path) -> str:
    """A path relative to the current folder if it lies below it, else unchanged."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _rows(results: Results) -> list[tuple[str, Text]]:
    get, number = formatting.get, formatting.number
    rows = []
    for index, key in enumerate(formatting.metrics(results)):
        value = _strong(f"{number(get(results, 'quantized', key))} %")
        value.append(f"  (float {number(get(results, 'float', key))} %)", "dim")
        if index == 0 and get(results, "drop", "points") is not None:
            value.append(f"  drop {formatting.drop(results)} points")
        rows.append((formatting.metric_name(key), value))
    fidelity = Text(f"agreement {number(get(results, 'fidelity', 'agreement'), 2, ' %')}")
    fidelity.append(f", KL {formatting.scientific(get(results, 'fidelity', 'kl'))}")
    fidelity.append(f", SQNR {number(get(results, 'fidelity', 'sqnr_db'), 1, ' dB')}")
    base = formatting.baseline_name(results)
    fast = _strong(formatting.quantization_time(results))
    fast.append(f"  ({formatting.evidence(results)})", "dim")
    small = _strong(formatting.size(get(results, "size_mb", "quantized")))
    small.append(
        f"  (float {formatting.size(get(results, 'size_mb', 'float'))}, "
        f"{formatting.factor(formatting.shrink(results))} smaller)",
        "dim",
    )
    return [
        *_doubts(results),
        *rows,
        ("evaluated on", Text(f"{formatting.samples(results)} of {results.get('data')}")),
        ("against float", fidelity),
        ("quantization time", fast),
        *(
            [(f"layer loss / {base}", Text(number(results.get("loss_ratio_vs_baseline"), 3)))]
            if results.get("baseline")
            else []
        ),
        ("size", small),
        *_coverage(results),
        *_costs(results),
        *_mixed(results),
        ("run time", _time(results)),
        ("layers", _layers(results)),
        ("files", Text(nearby(results.get("output_dir") or formatting.MISSING))),
    ]


def _doubts(results: Results) -> list[tuple[str, Text]]:
    doubts = [doubt for doubt in results.get("doubts") or () if isinstance(doubt, str)]
    return [("do not trust", Text(doubt, "bold red")) for doubt in doubts]


def _mixed(results: Results) -> list[tuple[str, Text]]:
    if not results.get("precision"):
        return []
    return [("bits per layer", Text(formatting.allocation(results)))]


def _costs(results: Results) -> list[tuple[str, Text]]:
    if not results.get("costs"):
        return []
    return [
        (
            "costs",
            Text(formatting.price(results)).append(
                f"  {formatting.priced_against(results)}", "dim"
            ),
        )
    ]


def _coverage(results: Results) -> list[tuple[str, Text]]:
    if not results.get("coverage"):
        return []
    if not coverage.low(results):
        return [("quantized share", Text(coverage.text(results)))]
    told = f"{coverage.text(results)}. In floating point: {coverage.reasons(results)}"
    return [("quantized share", Text(told, "red"))]


def _time(results: Results) -> Text:
    text = Text(formatting.seconds(formatting.get(results, "seconds", "total")))
    text.append(f", solving {formatting.seconds(formatting.solve_seconds(results))}")
    cached = [name for name, stored in (results.get("cached") or {}).items() if stored]
    if cached:
        text.append(f"  (from the store: {', '.join(cached)})", "dim")
    return text


def _layers(results: Results) -> Text:
    skipped = len(results.get("not_quantized") or ())
    text = Text(f"{len(results.get('layers') or ())} quantized")
    return text.append(f", {skipped} not (see report.html)" if skipped else "")


def _strong(text: str) -> Text:
    return Text().append(text, "bold")
