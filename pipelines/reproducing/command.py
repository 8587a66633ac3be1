"""`obliq reproduce results.json`: compute a result again from its record, compare every number.

The record holds the words of the command line, which are run again, and the resolved settings,
which must come out the same. It runs what the record says, so trust the record as you would a
script.
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
DETAILS = ("layers", "details", "precision", "rounding")  # shown where they differ ...
COUNTS = ("calibrate.images", "method.held_out")  # settings that a run fills in
MOST = 20  # ... but so many at most

Check = Callable[[dict[str, Any]], None]
Rerun = Callable[[Sequence[str], Path, Check], int]


def main(arguments: Sequence[str], store: Path, rerun: Rerun) -> int:
    """The command line.

    Args:
        arguments: behind `obliq reproduce`.
        store: the usual store, for --store.
        rerun: (words, store, check) -> exit status of `obliq WORDS`; check gets the settings.

    Returns:
        0: the figures are the same; 4: they are not; 2: the record cannot be run again;
        1: running it failed.
    """
    options = _parser().parse_intermixed_args(arguments)
    console = Console(highlight=False)
    try:
        record = Record.read(options.file)
        if (options.out / "results.json").exists():
            raise ValueError(f"would overwrite {options.out / 'results.json'}: give another --out")
    except (OSError, ValueError) as err:
        reason = (err.strerror or err) if isinstance(err, OSError) else err
        print(f"error: {options.file} {reason}", file=sys.stderr)
        return UNUSABLE
    for line in consent.told([*record.words, *options.words], record.config_dir, record.settings):
        _say(console, line)
    try:
        if not consent.agreed(options.yes):
            return UNUSABLE
    except ValueError as err:
        print(f"error: {err}", file=sys.stderr)
        return UNUSABLE
    refused: list[str] = []

    def check(settings: dict[str, Any]) -> None:
        own_words = [word for word in options.words if "_target_" in word]
        if not own_words and (code := consent.unannounced(record.settings, settings)):
            refused.extend(code)
            raise ValueError(
                f"{options.file} would call code that its settings do not name: {', '.join(code)}. "
                "If you trust it, give the word that does so yourself, behind the file"
            )
        refused.extend(record.changed(settings))
        if refused:
            raise ValueError(_changed(refused, options.file, record.results))

    own = options.out / "store"
    status = rerun(_words(record, options), store if options.store else own, check)
    written = options.out / "results.json"
    if not written.is_file():
        return UNUSABLE if refused or status == UNUSABLE else status or FAILED
    if not options.store:
        shutil.rmtree(own, ignore_errors=True)
    now = Record.read(written)
    reasons = circumstances.differing(record.results, now.results)
    reasons += [f"setting {text}" for text in record.versioned(now.settings)]
    tolerance = Tolerance(options.tolerance, options.points)
    return judge(record.results, now.results, reasons, tolerance, console)


def judge(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    reasons: Sequence[str],
    tolerance: Tolerance,
    console: Console,
) -> int:
    """Print what differs; 0 or DIFFERENT. With no reasons to differ, every bit must be equal."""
    found = compare(then, now)
    wrong = [f for f in found if not (f.within(tolerance) if reasons else f.equal)]
    equal = sum(figure.equal for figure in found)
    main = [figure for figure in found if figure.name.split(".")[0] not in DETAILS]
    details = [figure for figure in found if figure not in main and not figure.equal]
    _print_table([*main, *details[:MOST]], console)
    if len(details) > MOST:
        _say(console, f"and {len(details) - MOST} more figures of layers and details that differ")
    others = other_rows(then, now)
    if others:
        _say(
            console,
            f"OBQ had time for other rows of {len(others)} layers: its figures there are left out",
        )
    for reason in reasons:
        _say(console, f"not as it was: {reason}")
    _say(console, f"{equal} of {len(found)} figures are equal, bit for bit.")
    if wrong:
        names = ", ".join(figure.name for figure in wrong[:8]) + ", ..." * (len(wrong) > 8)
        beyond = f" by more than the tolerance ({tolerance})" if reasons else ""
        _say(console, f"NOT REPRODUCED: {len(wrong)} differ{beyond}: {names}")
        return DIFFERENT
    how = "" if equal == len(found) else f"; the others within the tolerance ({tolerance})"
    _say(console, f"REPRODUCED{how}")
    return 0


def _words(record: Record, options: argparse.Namespace) -> list[str]:
    """The recorded words, those given now, and where the new files go."""
    given: list[str] = options.words
    folder = str(options.out.absolute()).replace("'", r"\'")
    quiet = [] if any(word.startswith("tracking=") for word in given) else ["tracking=none"]
    more = ["--config-dir", record.config_dir] if record.config_dir else []
    found = [*_threads(record, given), *_counts(record, given)]
    alone = ["hydra.mode=RUN", f"hydra.run.dir='{folder}'"]  # one job of what sweep= names
    return [*more, *record.words, *quiet, *found, *given, *alone]


def _threads(record: Record, given: Sequence[str]) -> list[str]:
    """As many as then: with others sums are rounded otherwise."""
    count = (record.results.get("machine") or {}).get("threads")
    named = any(word.startswith("machine.threads=") for word in (*record.words, *given))
    return [f"machine.threads={count}"] if isinstance(count, int) and not named else []


def _counts(record: Record, given: Sequence[str]) -> list[str]:
    """As many calibration images as then, where the words leave it to what there is."""
    found = {name: record.setting(name) for name in COUNTS}
    words = (*record.words, *given)
    named = {name for name in found if any(word.startswith(f"{name}=") for word in words)}
    return [f"{n}={v}" for n, v in found.items() if isinstance(v, int) and n not in named]


def _changed(changed: Sequence[str], file: Path, then: Mapping[str, Any]) -> str:
    commit = (then.get("source") or {}).get("commit")
    there = f" (it was made by commit {commit})" if commit else ""
    shown = "; ".join(changed[:5]) + f"; and {len(changed) - 5} more" * (len(changed) > 5)
    return (
        f"the words recorded in {file} give other settings now: {shown}. Use the code of then"
        f"{there}, or give the settings of then as words behind the file"
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


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="obliq reproduce",
        description=__doc__,
        epilog="Exit status: 0 the same figures, 4 other ones, 2 the record cannot be run again, "
        "1 running it failed. Same code, packages and machine: every figure must be equal bit for "
        "bit. Otherwise, on a GPU, and where rounding is trained, within the tolerance.",
    )
    now = clock.date().strftime("%Y-%m-%d_%H-%M-%S-%f")
    parser.add_argument("file", type=Path, help="results.json, or the folder with it")
    parser.add_argument(
        "words", nargs="*", metavar="NAME=VALUE", help="more words: data.root=/where/it/is/now"
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
        help="take what the store (OBLIQ_CACHE) has; else all is computed anew",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.05, metavar="PART", help="of losses and KL: 0.05"
    )
    parser.add_argument(
        "--points", type=float, default=0.5, metavar="POINTS", help="of percentages: 0.5"
    )
    return parser
