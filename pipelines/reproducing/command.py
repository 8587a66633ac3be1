"""`obliq reproduce results.json`: rerun a result and compare every figure.

The overrides recorded in the file are run again and must yield the recorded settings. This runs
what the file says: trust it as you would a script.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.machine import clock
from pipelines.reproducing import circumstances, consent
from pipelines.reproducing.figures import Figure, Tolerance, compare, other_rows
from pipelines.reproducing.record import Record

FAILED, UNUSABLE, DIFFERENT = 1, 2, 4  # exit statuses
DETAILS = ("layers", "details", "precision", "rounding")  # shown only if they differ
COUNTS = ("calibrate.images", "method.held_out")  # settings that a run completes
MOST = 20  # maximum number of differing details to show

Check = Callable[[dict[str, Any]], None]
Rerun = Callable[[Sequence[str], Path, Check], int]


def main(arguments: Sequence[str], store: Path, rerun: Rerun) -> int:
    """Run the command line.

    Args:
        arguments: after `obliq reproduce`.
        store: the user's store, for --store.
        rerun: (overrides, store, check) -> exit status of `obliq OVERRIDES`; `check` is called with
            the settings.

    Returns:
        exit status: 0 the figures are the same, 4 they differ, 2 the file cannot be run again,
        1 the run failed.
    """
    options = _parser().parse_intermixed_args(arguments)
    console = Console(highlight=False)
    try:
        record = Record.read(options.file)
        if (options.out / "results.json").exists():
            raise ValueError(
                f"would overwrite {options.out / 'results.json'}: choose another --out"
            )
    except (OSError, ValueError) as err:
        reason = (err.strerror or err) if isinstance(err, OSError) else err
        print(f"error: {options.file} {reason}", file=sys.stderr)
        return UNUSABLE
    for line in consent.told(
        [*record.overrides, *options.overrides], record.config_dir, record.settings
    ):
        _print(console, line)
    try:
        if not consent.agreed(options.yes):
            return UNUSABLE
    except ValueError as err:
        print(f"error: {err}", file=sys.stderr)
        return UNUSABLE
    refused: list[str] = []

    def check(settings: dict[str, Any]) -> None:
        own_words = [word for word in options.overrides if "_target_" in word]
        if not own_words and (code := consent.unannounced(record.settings, settings)):
            refused.extend(code)
            raise ValueError(
                f"{options.file} would call code that its settings do not name: {', '.join(code)}. "
                "If you trust it, pass that override yourself, after the file"
            )
        refused.extend(record.changed(settings))
        if refused:
            raise ValueError(_changed(refused, options.file, record.results))

    own = options.out / "store"
    status = rerun(_overrides(record, options), store if options.store else own, check)
    written = options.out / "results.json"
    if not written.is_file():
        return UNUSABLE if refused or status == UNUSABLE else status or FAILED
    if not options.store:
        shutil.rmtree(own, ignore_errors=True)
    now = Record.read(written)
    reasons = circumstances.differing(record.results, now.results)
    reasons += [f"setting {text}" for text in record.versioned(now.settings)]
    tolerance = Tolerance(options.tolerance, options.points)
    return report(record.results, now.results, reasons, tolerance, console)


def report(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    reasons: Sequence[str],
    tolerance: Tolerance,
    console: Console,
) -> int:
    """Print the differences; returns 0 or DIFFERENT. Without reasons, all bits must be equal."""
    found = compare(then, now)
    wrong = [f for f in found if not (f.within(tolerance) if reasons else f.equal)]
    equal = sum(figure.equal for figure in found)
    main = [figure for figure in found if figure.name.split(".")[0] not in DETAILS]
    details = [figure for figure in found if figure not in main and not figure.equal]
    _print_table([*main, *details[:MOST]], console)
    if len(details) > MOST:
        _print(console, f"and {len(details) - MOST} more differing figures of layers and details")
    others = other_rows(then, now)
    if others:
        _print(
            console,
            f"OBQ ran on other rows in {len(others)} layers: its figures there are not compared",
        )
    for reason in reasons:
        _print(console, f"changed: {reason}")
    _print(console, f"{equal} of {len(found)} figures are equal, bit for bit.")
    if wrong:
        names = ", ".join(figure.name for figure in wrong[:8]) + ", ..." * (len(wrong) > 8)
        beyond = f" by more than the tolerance ({tolerance})" if reasons else ""
        _print(console, f"NOT REPRODUCED: {len(wrong)} differ{beyond}: {names}")
        return DIFFERENT
    how = "" if equal == len(found) else f"; the others within the tolerance ({tolerance})"
    _print(console, f"REPRODUCED{how}")
    return 0


def _overrides(record: Record, options: argparse.Namespace) -> list[str]:
    """The recorded overrides, the additional ones, and the output folder."""
    given: list[str] = options.overrides
    folder = str(options.out.absolute()).replace("'", r"\'")
    quiet = [] if any(item.startswith("tracking=") for item in given) else ["tracking=none"]
    more = ["--config-dir", record.config_dir] if record.config_dir else []
    found = [*_threads(record, given), *_counts(record, given)]
    alone = ["hydra.mode=RUN", f"hydra.run.dir='{folder}'"]  # a single job, even with sweep=
    return [*more, *record.overrides, *quiet, *found, *given, *alone]


def _threads(record: Record, given: Sequence[str]) -> list[str]:
    """The recorded number of threads, on which the rounding of sums depends."""
    count = (record.results.get("machine") or {}).get("threads")
    named = any(item.startswith("machine.threads=") for item in (*record.overrides, *given))
    return [f"machine.threads={count}"] if isinstance(count, int) and not named else []


def _counts(record: Record, given: Sequence[str]) -> list[str]:
    """The recorded numbers of images, unless the overrides set them."""
    found = {name: record.setting(name) for name in COUNTS}
    overrides = (*record.overrides, *given)
    named = {name for name in found if any(item.startswith(f"{name}=") for item in overrides)}
    return [f"{n}={v}" for n, v in found.items() if isinstance(v, int) and n not in named]


def _changed(changed: Sequence[str], file: Path, then: Mapping[str, Any]) -> str:
    commit = (then.get("source") or {}).get("commit")
    version = f" (commit {commit})" if commit else ""
    shown = "; ".join(changed[:5]) + f"; and {len(changed) - 5} more" * (len(changed) > 5)
    return (
        f"the overrides recorded in {file} now yield other settings: {shown}. Use the code that "
        f"wrote it{version}, or pass the recorded settings as overrides after the file"
    )


def _print_table(found: Sequence[Figure], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("figure", "recorded", "now", "difference", "equal"):
        right = column in ("recorded", "now", "difference")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for figure in found:
        difference = figure.difference
        table.add_row(
            Text(figure.name),
            Text(_text(figure.then)),
            Text(_text(figure.now)),
            "" if difference is None else f"{difference:.3g}",
            "yes" if figure.equal else "NO",
        )
    unlimited = console.options.update(width=10_000)
    console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:12]
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="obliq reproduce",
        description=__doc__,
        epilog="Exit status: 0 the figures are the same, 4 they differ, 2 the file cannot be run "
        "again, 1 the run failed. With the same code, packages and machine every figure must be "
        "equal bit for bit; otherwise, on a GPU, and if rounding is trained, within the tolerance.",
    )
    now = clock.date().strftime("%Y-%m-%d_%H-%M-%S-%f")
    parser.add_argument("file", type=Path, help="results.json, or the folder with it")
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="more overrides: data.root=/new/path"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/reproduced") / now, help="new output folder"
    )
    parser.add_argument(
        "--yes", action="store_true", help="run it without asking; needed where nobody can answer"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="use results in the store (OBLIQ_CACHE); default: recompute everything",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.05, metavar="PART", help="for losses and KL: 0.05"
    )
    parser.add_argument(
        "--points", type=float, default=0.5, metavar="POINTS", help="for percentages: 0.5"
    )
    return parser
