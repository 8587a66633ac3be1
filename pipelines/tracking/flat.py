"""Nested results as scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Scalar = float | int | bool | str


def flatten(results: Mapping[str, Any]) -> dict[str, Scalar]:
    """Scalars of nested results, by path.

    An interval becomes two values; other lists (the layers) and missing values are omitted.

    Examples:
        >>> flatten({"speedup": 9.5, "drop": {"points": 0.4, "ci95": [-0.1, 0.9]}, "layers": [{}]})
        {'speedup': 9.5, 'drop/points': 0.4, 'drop/ci95_lo': -0.1, 'drop/ci95_hi': 0.9}
    """
    flat: dict[str, Scalar] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": leaf for name, leaf in flatten(value).items()}
        elif key == "ci95" and isinstance(value, Sequence) and len(value) == 2:
            flat |= {"ci95_lo": value[0], "ci95_hi": value[1]}
        elif isinstance(value, float | int | bool | str):
            flat[key] = value
    return flat
