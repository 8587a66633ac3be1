"""Outcomes of a sweep's jobs, passed to the process that started it through files.

A job writes `<sweep>/.jobs/<number>.json` when it starts and when it ends; the file of a job that
was killed has no end.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from pipelines.machine.screen import Screen
from pipelines.reporting.summary import nearby

FOLDER = ".jobs"
WIDTH = 100  # columns of the output of a parallel job
DIED = 1  # exit status of a sweep with a killed job

sweep: Path | None = None  # folder of the sweep that this process started


@dataclass(frozen=True)
class Outcome:
    """The state of a job.

    Attributes:
        number: number of the job in its sweep.
        name: display name.
        folder: output folder.
        status: exit status; None until it ends.
        error: error message; empty if there is none.
    """

    number: int
    name: str
    folder: str
    status: int | None = None
    error: str = ""

    def write(self, root: Path) -> None:
        """Write this to the sweep's folder `root`."""
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{self.number}.new"
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(folder / f"{self.number}.json")

    def ended(self, root: Path, status: int, error: str = "") -> None:
        """Write the end of the job to the sweep's folder `root`."""
        replace(self, status=status, error=error).write(root)


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(launcher: Mapping[str, Any], batch: int | None, available: int) -> int | None:
    """Threads per job if jobs run in parallel; None for no limit.

    Args:
        launcher: settings of the Hydra launcher.
        batch: jobs that the sweeper launches at a time; None for all.
        available: number of cores of this machine.
    """
    kind = str(launcher["_target_"]).rpartition(".")[2]
    if kind == "SlurmLauncher":
        return int(launcher["cpus_per_task"]) if launcher.get("cpus_per_task") else None
    at_once = {
        "JoblibLauncher": launcher.get("n_jobs"),
        "RayLauncher": launcher.get("n_jobs"),
        "LocalLauncher": batch or available,  # submitit starts all of them
    }.get(kind)
    if at_once is None:
        return None
    return max(1, available // at_once) if at_once > 0 else 1


def begin(root: Path) -> None:
    """Start a sweep into `root`: record it and delete the outcomes of an earlier one."""
    global sweep
    sweep = root
    shutil.rmtree(root / FOLDER, ignore_errors=True)


def outcomes(root: Path) -> list[Outcome]:
    """Outcomes of all jobs that have started, ordered by number."""
    found = (json.loads(p.read_text(encoding="utf-8")) for p in (root / FOLDER).glob("*.json"))
    return sorted((Outcome(**record) for record in found), key=lambda outcome: outcome.number)


def finish(screen: Screen) -> int:
    """Report on the sweep started by `begin`; returns the exit status, 0 without a sweep."""
    global sweep
    root, sweep = sweep, None
    ended = outcomes(root) if root else []
    if root is None or len(ended) < 2:
        return _status(ended)
    _table(ended, screen)
    bad = [outcome for outcome in ended if outcome.status != 0]
    for job in bad:
        error = job.error.splitlines()[0] if job.error else "it did not end: was it killed?"
        screen.line(f"job {job.number} {job.name}: {error}", mark="[red]✗[/] ")
        screen.line(f"  {nearby(job.folder)}", style="dim")
    failed = f", {len(bad)} of them failed" if bad else ""
    screen.line(
        f"{len(ended)} jobs{failed}; files: {nearby(root.resolve())}", mark="[bold]obliq[/]  "
    )
    return _status(ended)


def _status(ended: Sequence[Outcome]) -> int:
    return next((DIED if x.status is None else x.status for x in ended if x.status != 0), 0)


def _table(ended: Sequence[Outcome], screen: Screen) -> None:
    """Print the results of all jobs in a table."""
    from pipelines.comparing import table

    files = [Path(outcome.folder) / "results.json" for outcome in ended if outcome.status != DIED]
    files = [path for path in files if path.is_file()]
    if files:
        table.show(table.collect(files), screen.console)


def screen(name: str) -> Screen:
    """The screen of a parallel job: no progress bars, every line prefixed with its name."""
    lines: Any = Prefixed(sys.stderr, name)
    return Screen(Console(file=lines, highlight=False, width=WIDTH), brief=True)


class Prefixed(io.TextIOBase):
    """Writes whole lines with a name in front, to distinguish parallel jobs on one screen."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._rest = stream, name, ""

    def write(self, text: str) -> int:
        """Pass on whole, non-blank lines and buffer the rest."""
        *lines, self._rest = (self._rest + text).split("\n")
        whole = "".join(f"[{self._name}] {line.rstrip()}\n" for line in lines if line.strip())
        if whole:
            self._stream.write(whole)
            self._stream.flush()
        return len(text)
