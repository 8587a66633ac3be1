"""Garbage collection: least recently used first, never what a process may be using."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.machine import clock
from pipelines.store import contents, users
from pipelines.store.contents import Item


@dataclass(frozen=True)
class Plan:
    """Folders to remove, with the reason, and folders that are in use."""

    remove: list[tuple[Item, str]]
    busy: list[Item]


def plan(root: Path, keep: int | None, older_than: float | None) -> Plan:
    """Choose the folders to remove; leftovers always are.

    Args:
        root: folder of the store.
        keep: maximum size of the store in bytes; None: no limit.
        older_than: maximum seconds since the last use; None: no limit.
    """
    items = contents.scan(root)
    since = users.first_start(root)
    busy = [i for i in items if _in_use(i, since)]
    held = {item.path for item in busy}
    total, now = sum(item.size for item in items), clock.now()
    remove = []
    for item in sorted(items, key=lambda item: (item.kind != "leftover", item.used)):
        reason = ""
        if item.kind == "leftover":
            reason = "incomplete: its run died"
        elif older_than is not None and now - item.used > older_than:
            reason = "not used recently"
        elif keep is not None and total > keep:
            reason = "over the limit"
        if reason and item.path not in held:
            remove.append((item, reason))
            total -= item.size
    return Plan(remove, busy)


def remove(items: Sequence[Item]) -> list[Item]:
    """Remove the items that no run has started to use since the plan; returns those removed.

    Items that belong to another user, who does not share them, stay.
    """
    return [item for item in items if _remove(item)]


def remove_locks(root: Path) -> None:
    """Remove the lock files that no process holds; a process about to lock one notices.

    Those of runs (`users`) go with the plan, and those that belong to another user stay.
    """
    for path in sorted(root.glob("*/*.lock")):
        if path.parent.name != users.FOLDER:
            users.is_held(path, remove=True)


def _remove(item: Item) -> bool:
    if not all(os.access(folder, os.W_OK | os.X_OK) for folder in (item.path, item.path.parent)):
        return False
    try:
        with FileLock(item.lock, timeout=0):
            return _move_and_delete(item)
    except (Timeout, OSError):
        return False


def _move_and_delete(item: Item) -> bool:
    """Rename, then delete, so that a run finds all of it or nothing.

    An artifact that was used in between is moved back.
    """
    if item.kind == "artifact" and _last_use(item.path) != item.used:
        return False
    if (
        item.kind == "leftover"
        and (item.path / "done.json").is_file()
        and item.path.name == item.key
    ):
        return False  # a run has completed it since
    away = item.path.with_name(f"{item.key}.removed-{os.getpid()}-{round(1e9 * clock.now())}")
    item.path.rename(away)
    if item.kind == "artifact" and _last_use(away) != item.used and not item.path.exists():
        away.rename(item.path)
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True


def _last_use(folder: Path) -> float:
    return (folder / "done.json").stat().st_mtime


def _in_use(item: Item, since: float | None) -> bool:
    if users.is_held(item.lock):
        return True
    return since is not None and item.kind == "artifact" and item.used >= since
