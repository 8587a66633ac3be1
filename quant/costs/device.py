"""A device as the roofline model sees it: a few numbers, checked when they are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

WIDTHS = (1, 2, 4, 8, 16, 32)  # bits that hardware is made for


@dataclass(frozen=True)
class Device:
    """The numbers of a profile in conf/device/.

    Attributes:
        title: for people.
        peak_tops: {bits: 10^12 operations a second} where both operands have so many bits, of
            those that the device computes with; a multiply-add counts as two.
        storage: bits in which its memory holds numbers; narrower ones may be unpacked on the way
            to the arithmetic.
        bandwidth_gb_s: 10^9 bytes a second between memory and arithmetic.
        launch_us: microseconds that every call of a layer takes besides.
        batch: images at a time.
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
                found = f"names the width {unknown[0]!r}" if unknown else "names no width"
                raise ValueError(
                    f"device {self.title}: {key} {found}; widths are numbers of bits among {WIDTHS}"
                )
        self._check_numbers()
        rates = [self.peak_tops[width] for width in sorted(self.peak_tops)]
        if rates != sorted(rates, reverse=True):
            raise ValueError(
                f"device {self.title}: peak_tops={dict(self.peak_tops)} has a wider width that is "
                "faster than a narrower one: leave out the narrower, which then runs as the wider"
            )
        if max(self.storage) < max(self.peak_tops):
            raise ValueError(
                f"device {self.title}: storage={list(self.storage)} holds no numbers of "
                f"{max(self.peak_tops)} bits, which peak_tops names"
            )

    def _check_numbers(self) -> None:
        numbers = {f"peak_tops.{width}": rate for width, rate in self.peak_tops.items()}
        numbers |= {"bandwidth_gb_s": self.bandwidth_gb_s, "batch": self.batch}
        for key, value in {**numbers, "launch_us": self.launch_us}.items():
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            least = value >= 0 if plain and key == "launch_us" else plain and value > 0
            if not least or not math.isfinite(value):
                kind = "a number, not negative" if key == "launch_us" else "a positive number"
                raise ValueError(f"device {self.title}: {key}={value!r} must be {kind}")
        if not isinstance(self.batch, int):
            raise ValueError(f"device {self.title}: batch={self.batch!r} must be a whole number")

    def computes_at(self, bits: int) -> int:
        """The width that operands of `bits` bits are computed with: the next one there is."""
        return self._next(bits, self.peak_tops, "computes with")

    def stores_at(self, bits: int) -> int:
        """The width that numbers of `bits` bits are stored in: the next one there is."""
        return self._next(bits, self.storage, "stores")

    def _next(self, bits: int, widths: Sequence[int] | Mapping[int, float], does: str) -> int:
        wide = [width for width in widths if width >= bits]
        if bits < 1 or not wide:
            raise ValueError(
                f"{bits} bits: {self.title} {does} {', '.join(map(str, sorted(widths)))} bits. "
                "Ask for fewer bits, or choose another device"
            )
        return min(wide)


def profile(**settings: Any) -> Device:
    """A device from the keys of its YAML.

    Raises:
        ValueError: a key is missing, unknown, or has an impossible value.
    """
    known = [f.name for f in fields(Device)]
    missing = [key for key in known if settings.get(key) is None]
    unknown = [key for key in settings if key not in known]
    if missing or unknown:
        raise ValueError(
            f"device {settings.get('title', 'profile')}: missing {', '.join(missing) or 'nothing'},"
            f" unknown {', '.join(unknown) or 'nothing'}. A profile has {', '.join(known)}"
        )
    for key, kind in (("peak_tops", Mapping), ("storage", list)):
        if not isinstance(settings[key], kind):
            raise ValueError(
                f"device {settings['title']}: {key}={settings[key]!r} must be "
                + ("{bits: 10^12 operations a second}" if kind is Mapping else "a list of bits")
            )
    return Device(**settings)
