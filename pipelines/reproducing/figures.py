"""Comparison of every figure in two results.json; times are excluded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ABOUT = {  # how and where, not what came out
    "versions", "computed_with", "machine", "source", "settings", "command", "config_dir",
    "output_dir",
    "seconds", "cached", "speedup",
}  # fmt: skip
PERCENT = ("float", "quantized", "uncorrected", "means_moved", "drop", "details")
OBQ_ROWS = {  # figures that depend on which rows OBQ had time for
    "loss_ratio_vs_baseline", "baseline_rows", "loss_baseline", "loss_on_baseline_rows",
    "ratio_vs_baseline", "baseline_estimated",
}  # fmt: skip
NEGLIGIBLE = 1e-6  # absolute difference of losses, KL and distances that counts as equal


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences if the circumstances differ.

    Attributes:
        relative: relative difference of losses, divergences and ratios.
        points: absolute difference of percentages, in points.
    """

    relative: float
    points: float

    def __str__(self) -> str:
        return f"{100 * self.relative:g} % of a loss or KL, {self.points:g} points of a percentage"


@dataclass(frozen=True)
class Figure:
    """A number (or checksum) in both results; None if missing."""

    name: str
    then: Any
    now: Any

    @property
    def equal(self) -> bool:
        """Whether both are equal, bit for bit."""
        return bool(self.then == self.now) and _kind(self.then) == _kind(self.now)

    @property
    def difference(self) -> float | None:
        """now - then; None unless both are numbers."""
        both = (self.then, self.now)
        numbers = all(_kind(value) == "number" for value in both)
        return float(self.now - self.then) if numbers else None

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the difference is allowed; counts, booleans and data checksums must be equal."""
        if self.equal or self.name == "fingerprints.weights" or self.name == "fingerprints.network":
            return True
        if self.difference is None or not any(isinstance(x, float) for x in (self.then, self.now)):
            return False
        if self.name.split(".")[0] in PERCENT or self.name.endswith("agreement"):
            return abs(self.difference) <= tolerance.points
        return math.isclose(self.then, self.now, rel_tol=tolerance.relative, abs_tol=NEGLIGIBLE)


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Figure]:
    """All figures of both in file order, without OBQ's in layers of `other_rows`."""
    a, b = dict(figures(then)), dict(figures(now))
    layers = tuple(f"layers.{name}." for name in other_rows(then, now))
    return [
        Figure(name, a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if not (
            layers
            and _follows_obq(name)
            and (name.startswith(layers) or not name.startswith("layers."))
        )
    ]


def other_rows(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Layers in which OBQ ran on different rows, so that its losses are not comparable."""
    a, b = ({x["name"]: x.get("baseline_rows") for x in y.get("layers") or []} for y in (then, now))
    return [name for name in a if name in b and a[name] != b[name]]


def figures(results: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, value) of every number, boolean, null and fingerprint."""
    for key, value in results.items():
        if key == "layers" and isinstance(value, list):
            rows = {str(layer.get("name")): layer for layer in value if isinstance(layer, Mapping)}
            yield from _leaves(rows, "layers")
        elif key not in ABOUT:
            yield from _leaves(value, key)


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not _is_time(str(key)):
                yield from _leaves(value, f"{name}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{name}.{number}")
    elif not isinstance(node, str) or name.startswith("fingerprints."):
        yield name, node


def _is_time(key: str) -> bool:
    return key in ("seconds", "measuring") or key.startswith("seconds_") or key.endswith("_seconds")


def _follows_obq(name: str) -> bool:
    return name.startswith("baseline.") or name.rpartition(".")[2] in OBQ_ROWS


def _kind(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__
