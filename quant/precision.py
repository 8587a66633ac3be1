"""Bit widths by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def check_bits(named: Mapping[str, int]) -> None:
    """Raise a ValueError for the first setting {name: bits} that is not a valid bit width."""
    for name, bits in named.items():
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"{name}={bits} must be a whole number from 1 to 16")


def assign_bits(
    names: Sequence[str], bits: int, first_last_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """Bits by name: from `overrides`, else `first_last_bits` at both ends, else `bits`."""
    return {**dict.fromkeys(names, bits), **fixed_bits(names, first_last_bits, overrides)}


def fixed_bits(
    names: Sequence[str], first_last_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """Bits by name from `overrides`, and `first_last_bits` at both ends unless overridden."""
    ends = (
        {}
        if first_last_bits is None or not names
        else dict.fromkeys((names[0], names[-1]), first_last_bits)
    )
    return {**ends, **overrides}
