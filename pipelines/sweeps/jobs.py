"""What the jobs of a sweep tell the process that started it, whichever process runs them.

A job writes `<sweep>/.jobs/<number>.json` when it starts and when it ends: one that died has no
end.
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
WIDTH = 100  # of the lines of a job beside others
DIED = 1  # exit status of a sweep with a job that has no end

sweep: Path | None = None  # folder of the sweep that this process has started


@dataclass(frozen=True)
class Outcome:
    """How a job went.

    Attributes:
        number: of the job in its sweep.
        name: for people.
        folder: output folder.
        status: what it would have exited with; None as long as it runs.
        error: what went wrong; empty if nothing did.
    """

    number: int
    name: str
    folder: str
    status: int | None = None
    error: str = ""

    def write(self, root: Path) -> None:
        """Leave this below the sweep's folder `root`."""
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{self.number}.new"
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(folder / f"{self.number}.json")

    def ended(self, root: Path, status: int, error: str = "") -> None:
        """Leave word of the end."""
        replace(self, status=status, error=error).write(root)


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(launcher: Mapping[str, Any], batch: int | None, available: int) -> int | None:
    """Threads for a job, where others run at the same time; None leaves them alone.

    Args:
        launcher: Hydra's settings of the launcher.
        batch: jobs that the sweeper gives to the launcher together; None for all.
        available: cores of this machine.
    """
    kind = str(launcher["_target_"]).rpartition(".")[2]
    if kind == "SlurmLauncher":
        return int(launcher["cpus_per_task"]) if launcher.get("cpus_per_task") else None
    at_once = {
        "JoblibLauncher": launcher.get("n_jobs"),
        "RayLauncher": launcher.get("n_jobs"),
        "LocalLauncher": batch or available,  # submitit's starts all of them
    }.get(kind)
    if at_once is None:
        return None
    return max(1, available // at_once) if at_once > 0 else 1


def begin(root: Path) -> None:
    """A sweep into `root` starts here: forget what an earlier one has left there."""
    global sweep
    sweep = root
    shutil.rmtree(root / FOLDER, ignore_errors=True)


def outcomes(root: Path) -> list[Outcome]:
    """Of all jobs that have started, in their order."""
    found = (json.loads(p.read_text(encoding="utf-8")) for p in (root / FOLDER).glob("*.json"))
    return sorted((Outcome(**record) for record in found), key=lambda outcome: outcome.number)


def finish(screen: Screen) -> int:
    """Tell how the sweep that `begin` has started went; gives the exit status, 0 without one."""
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
    """The results of all jobs beside each other; a search over settings has its own table."""
    from pipelines.comparing import table

    files = [Path(outcome.folder) / "results.json" for outcome in ended if outcome.status != DIED]
    files = [path for path in files if path.is_file()]
    if files:
        table.show(table.collect(files), screen.console)


def screen(name: str) -> Screen:
    """That of a job beside others: no bars, every line behind its name."""
    lines: Any = Prefixed(sys.stderr, name)
    return Screen(Console(file=lines, highlight=False, width=WIDTH), brief=True)


class Prefixed(io.TextIOBase):
    """Writes whole lines behind a name, so that jobs on one screen can be told from each other."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._rest = stream, name, ""

    def write(self, text: str) -> int:
        """Lines go on in one piece, without blank ones; the rest waits for its end."""
        *lines, self._rest = (self._rest + text).split("\n")
        whole = "".join(f"[{self._name}] {line.rstrip()}\n" for line in lines if line.strip())
        if whole:
            self._stream.write(whole)
            self._stream.flush()
        return len(text)
