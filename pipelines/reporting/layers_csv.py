"""layers.csv: one row per layer, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.reporting import regular
from pipelines.reporting.formatting import Results

FIRST = ("name", "shape", "groups", "bits", "method", "rows", "loss", "loss_rtn", "loss_vs_rtn")


def write(results: Results, path: Path) -> None:
    """Write the quantized layers, then the others with the reason.

    Nested values become a column each (`predicted_loss_4`), a shape "16x3x3x3"; numbers have
    full precision.

    Args:
        results: its `layers` and `not_quantized` are used.
        path: file to write, in an existing folder.
    """
    rows = [
        flat(layer) for layer in [*results.get("layers", ()), *results.get("not_quantized", ())]
    ]
    found = dict.fromkeys(key for row in rows for key in row)
    columns = [key for key in FIRST if key in found] + [key for key in found if key not in FIRST]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or FIRST, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the quantized layers from a file by `write`; an empty list if it cannot be read.

    Returns:
        a dict per layer: name, shape and all numeric columns.
    """
    try:
        rows = list(csv.DictReader(regular.read_text(path).splitlines(keepends=True)))
    except (OSError, ValueError, csv.Error):
        return []
    return [_layer(row) for row in rows if row.get("name") and not row.get("reason")]


def _layer(row: Mapping[str | None, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = {"name": row["name"]}
    sides = str(row.get("shape") or "").split("x")
    layer["shape"] = [int(side) for side in sides] if all(map(str.isdecimal, sides)) else []
    for key, value in row.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if key not in (None, "name", "shape") and math.isfinite(number):
            layer[str(key)] = int(number) if number.is_integer() else number
    return layer


def flat(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer as scalars by column; nested values are flattened."""
    row: dict[str, Any] = {}
    for key, value in layer.items():
        if isinstance(value, Mapping):
            row |= {f"{key}_{name}": leaf for name, leaf in value.items()}
        else:
            row[key] = "x".join(map(str, value)) if isinstance(value, list | tuple) else value
    if row.get("loss") is not None and row.get("loss_rtn"):
        row["loss_vs_rtn"] = row["loss"] / row["loss_rtn"]
    return row
