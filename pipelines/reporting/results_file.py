"""Read a results.json that may be truncated, edited or from another version.

After reading, every value that tables and plots expect to be a number is a number, None or missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.reporting import regular
from pipelines.reporting.formatting import Results

NEEDED = ("model", "method", "float", "quantized")
OBJECTS = ("float", "quantized", "fidelity", "drop", "seconds", "baseline", "size_mb", "rounding")
NUMBERS = ("weight_bits", "act_bits", "seed", "n_images", "speedup", "loss_ratio_vs_baseline")
NUMBERS_IN = {  # None: all values of the object
    "float": None,
    "quantized": None,
    "fidelity": None,
    "seconds": None,
    "drop": ("points",),
    "baseline": ("seconds", "rows_run", "rows_total"),
    "size_mb": ("float", "quantized"),
    "rounding": ("seconds",),
}
NUMBERS_OF_LAYERS = ("bits", "loss", "loss_rtn", "loss_baseline", "seconds")


def load(path: Path) -> dict[str, Any]:
    """Read and check a results file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold results, or a value has the wrong type.
    """
    try:
        results = json.loads(
            regular.read_text(path),
            parse_constant=lambda name: None,
            parse_int=_number,
            parse_float=_number,
        )
    except RecursionError:
        raise ValueError("is nested too deeply to be results") from None
    if not isinstance(results, dict):
        raise ValueError("holds no JSON object")
    absent = [key for key in NEEDED if key not in results]
    if absent:
        raise ValueError(f"lacks {', '.join(absent)}")
    wrong = [key for key in ("float", "quantized") if not isinstance(results[key], Mapping)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must hold a value per metric")
    _check(results)
    return results


def _number(text: str) -> int | float | None:
    """A number that a table or a plot can take; None of one that is beyond all of them."""
    if len(text) <= 18 and text.lstrip("-").isdecimal():
        return int(text)
    value = float(text)
    return value if math.isfinite(value) else None


def order(results: Results) -> tuple[str, float, str]:
    """Sort key of a run in tables: by model, bits (mixed last) and method."""
    bits = results.get("weight_bits")
    number = float(bits) if isinstance(bits, int | float) else float("inf")
    return str(results["model"]), number, str(results["method"])


def _check(results: Results) -> None:
    for key in OBJECTS:
        if not isinstance(results.get(key) or {}, Mapping):
            raise ValueError(f"{key} must be an object")
    for name, value in _numbers(results):
        if value is not None and not _is_number(value):
            raise ValueError(f"{name} holds {str(value)[:40]!r}, not a number")
    interval = (results.get("drop") or {}).get("ci95")
    if interval and not (
        isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval))
    ):
        raise ValueError("drop.ci95 must hold two numbers")


def _numbers(results: Results) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything that must be a number."""
    yield from ((key, results.get(key)) for key in NUMBERS)
    for key, names in NUMBERS_IN.items():
        values = results.get(key) or {}
        yield from ((f"{key}.{name}", values.get(name)) for name in names or values)
    layers = results.get("layers") or []
    if not isinstance(layers, list) or not all(isinstance(layer, Mapping) for layer in layers):
        raise ValueError("layers must be a list of objects")
    for layer in layers:
        name = f"layer {layer.get('name')}"
        yield from ((f"{name}: {key}", layer.get(key)) for key in NUMBERS_OF_LAYERS)
        shape = layer.get("shape") or []
        if not isinstance(shape, list):
            raise ValueError(f"{name}: shape must be a list")
        yield from ((f"{name}: shape", side) for side in shape)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
