"""Device profiles for the roofline model: a few numbers, validated when they are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

WIDTHS = (1, 2, 4, 8, 16, 32)  # bit widths that hardware supports


@dataclass(frozen=True)
class Device:
    """A profile in conf/device/.

    Attributes:
        title: the device's name for display.
        peak_tops: {bits: 10^12 operations per second} for each operand width that the device
            computes with; a multiply-add counts as two operations.
        storage: bit widths in which memory can hold values; values may be unpacked to a wider
            width before the arithmetic.
        bandwidth_gb_s: memory bandwidth in 10^9 bytes per second.
        launch_us: fixed overhead per call of a layer, in microseconds.
        batch: batch size in images.
    """

    title: str
    peak_tops: Mapping[int, float] = field(hash=False)
    storage: Sequence[int] = field(hash=False)
    bandwidth_gb_s: float
    launch_us: float
    batch: int

    def __post_init__(self) -> None:
        for key, widths in (("peak_tops", self.peak_tops), ("storage", self.storage)):
            unknown = [width for width in widths if width not in WIDTHS]
            if unknown or not widths:
                problem = f"lists the width {unknown[0]!r}" if unknown else "lists no width"
                raise ValueError(
                    f"device {self.title}: {key} {problem}; widths must be bit widths in {WIDTHS}"
                )
        self._check_numbers()
        rates = [self.peak_tops[width] for width in sorted(self.peak_tops)]
        if rates != sorted(rates, reverse=True):
            raise ValueError(
                f"device {self.title}: peak_tops={dict(self.peak_tops)} lists a width that is "
                "slower than a wider one: remove it, and it will run at the wider width"
            )
        if max(self.storage) < max(self.peak_tops):
            raise ValueError(
                f"device {self.title}: storage={list(self.storage)} lists no width of at least "
                f"{max(self.peak_tops)} bits, which peak_tops lists: add one"
            )

    def _check_numbers(self) -> None:
        numbers = {f"peak_tops.{width}": rate for width, rate in self.peak_tops.items()}
        numbers |= {"bandwidth_gb_s": self.bandwidth_gb_s, "batch": self.batch}
        for key, value in {**numbers, "launch_us": self.launch_us}.items():
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            least = value >= 0 if plain and key == "launch_us" else plain and value > 0
            if not least or not math.isfinite(value):
                kind = "a number, at least 0" if key == "launch_us" else "a positive number"
                raise ValueError(f"device {self.title}: {key}={value!r} must be {kind}")
        if not isinstance(self.batch, int):
            raise ValueError(f"device {self.title}: batch={self.batch!r} must be a whole number")

    def computes_at(self, bits: int) -> int:
        """The width at which operands of `bits` bits are computed: the narrowest that fits them."""
        return self._next(bits, self.peak_tops, "computes with")

    def stores_at(self, bits: int) -> int:
        """The width at which values of `bits` bits are stored: the narrowest that fits them."""
        return self._next(bits, self.storage, "stores")

    def _next(self, bits: int, widths: Sequence[int] | Mapping[int, float], verb: str) -> int:
        fitting = [width for width in widths if width >= bits]
        if bits < 1 or not fitting:
            raise ValueError(
                f"{bits} bits: {self.title} {verb} {', '.join(map(str, sorted(widths)))} bits. "
                "Use fewer bits or another device"
            )
        return min(fitting)


def profile(**settings: Any) -> Device:
    """Build a device from the keys of its YAML.

    Raises:
        ValueError: a key is missing or unknown, or its value is invalid.
    """
    known = [f.name for f in fields(Device)]
    missing = [key for key in known if settings.get(key) is None]
    unknown = [key for key in settings if key not in known]
    if missing or unknown:
        raise ValueError(
            f"device {settings.get('title', 'profile')}: missing {', '.join(missing) or 'nothing'},"
            f" unknown {', '.join(unknown) or 'nothing'}. The keys of a profile are "
            f"{', '.join(known)}"
        )
    for key, kind in (("peak_tops", Mapping), ("storage", list)):
        if not isinstance(settings[key], kind):
            raise ValueError(
                f"device {settings['title']}: {key}={settings[key]!r} must be "
                + ("{bits: 10^12 operations per second}" if kind is Mapping else "a list of bits")
            )
    return Device(**settings)
