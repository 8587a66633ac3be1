"""Find the output folders of runs and the state of each run.

A folder belongs to a run if it holds a `results.json`, an `error.log` or `config/hydra.yaml`, which
a run writes when it starts.
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

INSIDE = {"config", "plots", "pictures", "wandb"}  # subfolders of a run, which hold no other runs
STATES = {
    "done": "has results",
    "failed": "failed: an error.log and no results.json",
    "started": "started, no results.json: still running, or was stopped",
    "damaged": "results.json cannot be read",
}


@dataclass(frozen=True)
class Run:
    """A run's output folder and its content.

    Attributes:
        number: number of the run in this comparison, from 1.
        folder: output folder.
        state: a key of STATES.
        results: content of results.json; None unless the state is "done".
        reason: why there are no results, or a remark on them; may be empty.
        asked: requested model, data, method, ..., from the configuration.
        settings: a text that is equal for runs with equal settings; None if they are unknown.
        same_as: number of the first run with results and the same settings, unless it is this one.
        when: modification time of the file or folder that shows the state.
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
    """Every run below the paths: those with results first, by model, bits and method.

    Args:
        paths: folders, searched recursively; a path to a JSON file counts as a results.json.

    Raises:
        FileNotFoundError: a path does not exist, or there is no run below any.
    """
    paths = list(paths)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"no such folder: {', '.join(missing)}")
    files = dict.fromkeys(file.resolve() for path in paths for file in _results_files(path))
    if not files:
        raise FileNotFoundError(
            f"no run below {', '.join(map(str, paths))}: pass the output folder of a run or a "
            "parent of it"
        )
    runs = [_read(file) for file in files]
    named = identity.told_apart([run.results for run in runs])
    runs = [replace(run, results=found) for run, found in zip(runs, named, strict=True)]
    return _numbered(sorted(runs, key=_order))


def _results_files(path: Path) -> Iterator[Path]:
    """Path of the results.json of every run below a path; the file may be missing."""
    if path.is_file():
        yield path
        return
    unreadable: list[OSError] = []
    for folder, inner, names in os.walk(path, onerror=unreadable.append):
        inner[:] = sorted(set(inner) - INSIDE)
        started = (Path(folder) / "config" / "hydra.yaml").is_file()
        trial = "objective.json" in names  # a trial of a search, which evaluates nothing
        if (started and not trial) or {"results.json", "error.log"} & set(names):
            yield Path(folder) / "results.json"
    for error in unreadable:  # listed as a run that cannot be read
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
        reason = _error_message(log) if log.exists() else ""
    except (OSError, ValueError) as error:
        state, reason = "damaged", f"{file.name}: {error}"
    if results is not None and not results.get("layers"):
        results = {**results, "layers": layers_csv.read(folder / "layers.csv")}
    if results is not None and (folder / "error.log").exists():
        reason = "there is an error.log too: another run failed in this folder"
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
    """Number the runs and set `same_as`."""
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


def _error_message(log: Path) -> str:
    """The error message of a traceback: the text after its last indented line."""
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
