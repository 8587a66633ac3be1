"""Contents of a store: artifacts, checkpoints of interrupted runs, unusable leftovers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.store import users

KINDS = {
    "artifact": "a stored result",
    "progress": "the checkpoint of an interrupted stage",
    "leftover": "an incomplete folder of a run that died while writing",
}


@dataclass(frozen=True)
class Item:
    """A folder of the store.

    Attributes:
        kind: a key of KINDS.
        size: size of its files, in bytes.
        computed, used: times of writing and of last use, as `clock.now()`.
        seconds: compute time; None if unknown.
        inputs: keys of the artifacts that it was computed from; None if unknown.
    """

    path: Path
    stage: str
    key: str
    kind: str
    size: int
    computed: float
    used: float
    seconds: float | None
    inputs: tuple[str, ...] | None

    @property
    def lock(self) -> Path:
        """The lock file that the run which computes it holds."""
        return self.path.with_name(f"{self.key}.lock")


def scan(root: Path) -> list[Item]:
    """All folders of the store, least recently used first."""
    stages = sorted(p for p in root.glob("*/") if p.name != users.FOLDER)
    items = [item for stage in stages for item in _items(stage)]
    return sorted(items, key=lambda item: (item.used, item.key))


def dependents(items: list[Item]) -> dict[str, list[Item]]:
    """The artifacts that were computed from each key, as far as known."""
    by_input: dict[str, list[Item]] = {}
    for item in items:
        for key in item.inputs or ():
            by_input.setdefault(key, []).append(item)
    return by_input


def _items(stage: Path) -> Iterator[Item]:
    for path in sorted(stage.glob("*/")):
        key, _, ending = path.name.partition(".")
        size, newest = _measure(path)
        done = path / "done.json"
        try:
            used, computed = done.stat().st_mtime, (path / "record.json").stat().st_mtime
        except OSError:
            complete = _is_file(stage / key / "done.json")
            kind = "progress" if ending == "partial" and not complete else "leftover"
            yield Item(path, stage.name, key, kind, size, newest, newest, None, None)
            continue
        kind = "leftover" if ending else "artifact"
        yield Item(path, stage.name, key, kind, size, computed, used, *_read_done(done))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # another user's
        return False


def _read_done(done: Path) -> tuple[float | None, tuple[str, ...] | None]:
    """Seconds and inputs in a done.json; older versions stored no inputs."""
    try:
        record = json.loads(done.read_text(encoding="utf-8"))
        inputs = record.get("inputs")
        return float(record["seconds"]), None if inputs is None else tuple(map(str, inputs))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None


def _measure(folder: Path) -> tuple[int, float]:
    """Size of a folder in bytes, and the time of its last change."""
    size, newest = 0, 0.0
    for parent, _, names in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            try:
                stat = os.lstat(path)
            except OSError:
                continue
            size += stat.st_size if path != parent else 0
            newest = max(newest, stat.st_mtime)
    return size, newest
