"""The result of a hyperparameter search: a table in the terminal, and study.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pipelines.machine.screen import Screen
from pipelines.reporting.summary import nearby
from pipelines.sweeps.study import Choice, Trial


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials ordered by objective, failed ones last."""
    return sorted(trials, key=lambda t: (t.value is None, t.value or 0.0, t.number))


def write(trials: Sequence[Trial], about: Mapping[str, Any], path: Path) -> None:
    """Write study.json: `about` the search, the best settings, and all trials."""
    best = ranked(trials)[0]
    rows = [{**vars(trial)} for trial in trials]
    record = {**about, "best": dict(best.settings), "value": best.value, "trials": rows}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def show(trials: Sequence[Trial], path: Path, screen: Screen, rows: int = 10) -> None:
    """Print a table of the best trials and the first (the defaults, if in the search space)."""
    order = ranked(trials)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", *order[0].settings, "objective"):
        table.add_column(name, justify="right", no_wrap=True)
    chosen = order[:rows]
    for trial in [*chosen, *(t for t in order[rows:] if t.number == 0)]:
        value = "failed" if trial.value is None else f"{trial.value:.6g}"
        table.add_row(str(trial.number), *map(_text, trial.settings.values()), value)
    screen.console.print(table)
    best = " ".join(f"{name}={_text(value)}" for name, value in order[0].settings.items())
    screen.line(f"best of {len(trials)}: {best}", mark="[bold]obliq[/]  ")
    screen.line(f"  all trials: {nearby(path)}", style="dim")


def _text(value: Choice) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)
