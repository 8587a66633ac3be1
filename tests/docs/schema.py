"""The tables of docs/results-json.md, and the keys of a file that a run has written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Path_ = tuple[str, ...]
LIST = "[]"  # in a path: an item of the list before it
OPEN = {"<module>", "<bits>", "<image>", "<place>", "<title>", "<item>"}  # these stand for any text
OPAQUE = {("settings",)}  # described elsewhere

TYPES = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "list": list,
    "object": dict,
    "null": type(None),
}


@dataclass(frozen=True)
class Row:
    """A documented key.

    Attributes:
        key: as the page has it.
        types: names of TYPES.
        always: it is there whenever what holds it is.
    """

    key: str
    types: tuple[str, ...]
    always: bool

    @property
    def path(self) -> Path_:
        """Its parts: ("layers", "[]", "name")."""
        return tuple(self.key.replace(LIST, f".{LIST}").split("."))

    def allows(self, value: Any) -> bool:
        """Whether a value is of the documented type."""
        if isinstance(value, bool):
            return "boolean" in self.types
        return any(isinstance(value, TYPES[name]) for name in self.types)


@dataclass(frozen=True)
class Schema:
    """All rows, and what the names in angle brackets may be."""

    rows: tuple[Row, ...]
    names: dict[str, set[str]]

    def rows_of(self, path: Path_) -> list[Row]:
        """The rows that describe a key of a file."""
        return [row for row in self.rows if self._fits(row.path, path)]

    def always_in(self, path: Path_) -> list[Row]:
        """The rows of keys that an object at this path has always, but for names in brackets."""
        return [
            row
            for row in self.rows
            if row.always
            and self._fits(row.path[:-1], path)
            and not row.path[-1].startswith(("<", LIST))
        ]

    def _fits(self, pattern: Path_, path: Path_) -> bool:
        return len(pattern) == len(path) and all(
            p == part or (p in OPEN and part != LIST) or part in self.names.get(p, ())
            for p, part in zip(pattern, path, strict=True)
        )


def read(page: Path) -> Schema:
    """The tables of keys, and those whose first column lists what a name stands for."""
    rows: list[Row] = []
    names: dict[str, set[str]] = {}
    header: list[str] | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if header is None:
            header = cells
        elif set(cells[0]) <= set("-:"):
            continue
        elif header[0] == "Key":
            assert len(cells) == len(header) == 5, line
            rows.append(
                Row(cells[0].strip("`"), tuple(cells[1].split(" or ")), cells[3] == "always")
            )
        elif header[0].startswith("`<"):
            names.setdefault(header[0].strip("`"), set()).update(re.findall(r"`([^`]+)`", cells[0]))
    return Schema(tuple(rows), names)


def keys(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """(path, value) of everything in a file below its root; items of lists of objects as one."""
    if path in OPAQUE:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name), inner
            yield from keys(inner, (*path, name))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from keys(item, (*path, LIST))


def objects(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, dict[str, Any]]]:
    """(path, object) of every object in a file, the root first."""
    if isinstance(value, dict) and path not in OPAQUE:
        yield path, value
        for name, inner in value.items():
            yield from objects(inner, (*path, name))
    elif isinstance(value, list):
        for item in value:
            yield from objects(item, (*path, LIST))
