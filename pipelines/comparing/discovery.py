"""Which folders are runs, and what became of each of them.

A folder is a run where there is a `results.json`, an `error.log`, or the configuration that a run
writes when it starts (`config/hydra.yaml`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.comparing import identity, settings
from pipelines.reporting import layers_csv, regular, results_file
from pipelines.reporting.formatting import Results

INSIDE = {"config", "plots", "pictures", "wandb"}  # of a run: no runs are in there
STATES = {
    "done": "has results",
    "failed": "failed: an error.log and no results.json",
    "started": "started, no results.json: it is still running, or was stopped",
    "damaged": "results.json cannot be read",
}


@dataclass(frozen=True)
class Run:
    """A run's folder and what lies in it.

    Attributes:
        number: of the run in this comparison, from 1.
        folder: where it lies.
        state: a key of STATES.
        results: what results.json holds; None unless the state is "done".
        reason: why there are no results; empty where there are.
        asked: what was asked for, {model, data, method, ...} as the configuration has them.
        settings: a text that runs with the same settings share; None where they are not known.
        same_as: number of the first run with results and the same settings, unless it is this one.
        when: time of the last change of what the state stands on.
    """

    number: int
    folder: Path
    state: str
    results: Results | None
    reason: str
    asked: dict[str, Any]
    settings: str | None
    same_as: int | None
    when: datetime


def find(paths: Iterable[Path]) -> list[Run]:
    """Every run below the paths, those with results first, by model, bits and method.

    Args:
        paths: folders, searched recursively; a path to a JSON file counts as its results.

    Raises:
        FileNotFoundError: a path does not exist, or there is no run anywhere.
    """
    paths = list(paths)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"no such folder: {', '.join(missing)}")
    files = dict.fromkeys(file.resolve() for path in paths for file in _results_files(path))
    if not files:
        raise FileNotFoundError(
            f"no run below {', '.join(map(str, paths))}: give the output folder of a run, or one "
            "above it"
        )
    runs = [_read(file) for file in files]
    named = identity.told_apart([run.results for run in runs])
    runs = [replace(run, results=found) for run, found in zip(runs, named, strict=True)]
    return _numbered(sorted(runs, key=_order))


def _results_files(path: Path) -> Iterator[Path]:
    """The results.json of every run below a path, whether it is there or not."""
    if path.is_file():
        yield path
        return
    unreadable: list[OSError] = []
    for folder, inner, names in os.walk(path, onerror=unreadable.append):
        inner[:] = sorted(set(inner) - INSIDE)
        started = (Path(folder) / "config" / "hydra.yaml").is_file()
        trial = "objective.json" in names  # of a search: it evaluates nothing
        if (started and not trial) or {"results.json", "error.log"} & set(names):
            yield Path(folder) / "results.json"
    for error in unreadable:  # the run that lies there is named as one that cannot be read
        yield Path(error.filename) / "results.json"


def _read(file: Path) -> Run:
    folder = file.parent
    results, reason, evidence = None, "", file
    try:
        results = results_file.load(file)
        state = "done"
    except FileNotFoundError:
        log = folder / "error.log"
        evidence = log if log.exists() else folder / "config"
        state = "failed" if log.exists() else "started"
        reason = _last_words(log) if log.exists() else ""
    except (OSError, ValueError) as error:
        state, reason = "damaged", f"{file.name}: {error}"
    if results is not None and not results.get("layers"):
        results = {**results, "layers": layers_csv.read(folder / "layers.csv")}
    if results is not None and (folder / "error.log").exists():
        reason = "an error.log lies beside the results: another run failed in this folder"
    return Run(
        number=0,
        folder=folder,
        state=state,
        results=results,
        reason=reason,
        asked=settings.names(folder),
        settings=settings.settings(folder, results),
        same_as=None,
        when=_time(evidence),
    )


def _numbered(runs: Iterable[Run]) -> list[Run]:
    """Count the runs, and name the first one of those with the same settings."""
    first: dict[str, int] = {}
    counted = []
    for number, run in enumerate(runs, 1):
        same = first.get(run.settings or "")
        if same is None and run.settings and run.state == "done":
            first[run.settings] = number
        counted.append(replace(run, number=number, same_as=same))
    return counted


def _order(run: Run) -> tuple[int, tuple[str, float, str], str]:
    place = list(STATES).index(run.state)
    named = results_file.order(run.results) if run.results else ("", 0.0, "")
    return place, named, str(run.folder)


def _last_words(log: Path) -> str:
    """The error of a traceback: what stands below its last indented line."""
    try:
        lines = regular.read_text(log, errors="replace").strip().splitlines()
    except OSError as error:
        return f"error.log cannot be read: {error.strerror}"
    inner = max((i for i, line in enumerate(lines) if line.startswith(" ")), default=-1)
    text = " ".join(lines[inner + 1 :] or lines[-1:])
    return text if len(text) <= 400 else f"{text[:400]} …"


def _time(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime)
    except OSError:
        return datetime.fromtimestamp(0)
