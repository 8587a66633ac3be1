"""`obliq store ls | du | gc`: list the stored results, show disk usage, remove results.

A removed result is recomputed when a run needs it again.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.machine import clock
from pipelines.store import contents, gc
from pipelines.store.contents import Item

BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def main(arguments: Sequence[str], root: Path) -> int:
    """Run the command; returns exit status 0, or 1 with the reason on stderr."""
    options = _parser(root).parse_args(arguments)
    if not root.is_dir():
        print(f"error: no store at {root}: set OBLIQ_CACHE to its folder", file=sys.stderr)
        return 1
    console = Console(highlight=False)
    if options.action == "gc":
        return _gc(root, options.keep, options.older_than, options.dry_run, console)
    items = contents.scan(root)
    if options.action == "du":
        _du(items, console)
    else:
        stages = sorted({item.stage for item in items})
        if unknown := [name for name in options.stage if name not in stages]:
            text = f"no results of {', '.join(unknown)} in {root}"
            print(f"error: {text}; its stages: {', '.join(stages) or 'none'}", file=sys.stderr)
            return 1
        _ls(items, options.stage, console)
    total = size(sum(item.size for item in items))
    console.print(f"{root}: {total} in {_folders(len(items))}", soft_wrap=True)
    return 0


def size_in_bytes(text: str) -> int:
    """ "20GB", "1.5T", "512MiB" or plain bytes.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 20GB, 500MB or 1.5TB")
    unit = found[2].upper()
    whole = 1024 ** "_KMGT".index(unit) if found[3] else BYTES[unit]
    return round(float(found[1]) * whole)


def duration(text: str) -> float:
    """ "30d", "12h", "2w" or "90m", as seconds.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 30d, 12h, 2w or 90m")
    return float(found[1]) * SECONDS[found[2]]


def size(number: float) -> str:
    """A number of bytes in a suitable unit: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def ago(then: float) -> str:
    """Time since `then`, a clock.now(): "3 d"."""
    passed = max(clock.now() - then, 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{passed / length:.0f} {unit}"
    return f"{passed:.0f} s"


def _folders(count: int) -> str:
    return f"{count} folder" if count == 1 else f"{count} folders"


def _parser(root: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="obliq store", description=__doc__, epilog=f"The store is {root} (OBLIQ_CACHE)."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list all stored results: size, age, dependencies")
    ls.add_argument("stage", nargs="*", help="only results of these stages: Calibrate Evaluate")
    actions.add_parser("du", help="show disk usage and compute time of each stage")
    gc = actions.add_parser(
        "gc",
        help="remove unusable leftovers, and results beyond the given limits",
        description="Removes results, least recently used first, but never those that a running "
        "process may be using. Without a limit, removes only leftovers of runs that died while "
        "writing.",
    )
    gc.add_argument(
        "--keep", type=size_in_bytes, metavar="SIZE", help="maximum size of the store: 20GB"
    )
    gc.add_argument(
        "--older-than", type=duration, metavar="AGE", help="remove results last used before: 30d"
    )
    gc.add_argument("--dry-run", action="store_true", help="list the results, remove nothing")
    return parser


def _ls(items: Sequence[Item], wanted: Sequence[str], console: Console) -> None:
    stages = {item.key: item.stage for item in items if item.kind == "artifact"}
    users = contents.dependents(list(items))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "key", "size", "computed", "used", "took", "from", "needed by"):
        right = column in ("size", "computed", "used", "took")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for item in items:
        if wanted and item.stage not in wanted:
            continue
        table.add_row(
            Text(item.stage if item.kind == "artifact" else f"{item.stage} ({item.kind})"),
            item.key[:8],
            size(item.size),
            f"{ago(item.computed)} ago",
            f"{ago(item.used)} ago",
            "unknown" if item.seconds is None else f"{item.seconds:.1f} s",
            "unknown" if item.inputs is None else _names(item.inputs, stages),
            _names([user.key for user in users.get(item.key, ())], stages),
        )
    unlimited = console.options.update(width=10_000)
    console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)


def _names(keys: Sequence[str], stages: dict[str, str]) -> str:
    """ "Calibrate b8bfe5dc" for one result of a stage, "SolveLayer x6" for several, "gone x2"."""
    by_stage: dict[str, list[str]] = {}
    for key in keys:
        by_stage.setdefault(stages.get(key, "gone"), []).append(key)
    return ", ".join(
        f"{stage} {found[0][:8]}" if len(found) == 1 else f"{stage} x{len(found)}"
        for stage, found in sorted(by_stage.items())
    )


def _du(items: Sequence[Item], console: Console) -> None:
    by_name: dict[str, list[Item]] = {}
    for item in items:
        name = item.stage if item.kind == "artifact" else f"{item.stage} ({item.kind})"
        by_name.setdefault(name, []).append(item)
    table = Table("stage", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("folders", "size", "took", "last used"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, held in sorted(by_name.items(), key=lambda pair: -sum(i.size for i in pair[1])):
        used = max(item.used for item in held)
        total = size(sum(i.size for i in held))
        took = sum(item.seconds or 0.0 for item in held)
        table.add_row(Text(name), str(len(held)), total, f"{took:,.1f} s", f"{ago(used)} ago")
    console.print(table)


def _gc(
    root: Path, keep: int | None, older_than: float | None, dry_run: bool, console: Console
) -> int:
    plan = gc.plan(root, keep, older_than)
    chosen = [item for item, _ in plan.remove]
    removed = chosen if dry_run else gc.remove(chosen)
    if not dry_run:
        gc.remove_locks(root)
    reasons = {item.path: reason for item, reason in plan.remove}
    verb = "would remove" if dry_run else "removed"
    for item in removed:
        name = f"{item.stage} {item.key[:8]} ({item.kind})"
        line = f"{verb} {name}: {size(item.size)}, used {ago(item.used)} ago, {reasons[item.path]}"
        console.print(Text(line), soft_wrap=True)
    now = sum(item.size for item in contents.scan(root))
    left = now - sum(item.size for item in removed) if dry_run else now
    freed = size(sum(item.size for item in removed))
    console.print(f"{verb} {_folders(len(removed))}, {freed}; {size(left)} left", soft_wrap=True)
    if len(removed) < len(chosen):
        kept = len(chosen) - len(removed)
        console.print(f"kept {kept} that a run has started to use, or that belong to others")
    if keep is not None and left > keep:
        busy = size(sum(item.size for item in plan.busy))
        console.print(f"still over {size(keep)}: running processes use {busy}", soft_wrap=True)
    return 0
