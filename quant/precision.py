"""Numbers of bits by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def check_bits(named: Mapping[str, int]) -> None:
    """Raise a ValueError for the first of the settings that is no number of bits."""
    for name, bits in named.items():
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"{name}={bits} must be a whole number from 1 to 16")


def spread(
    names: Sequence[str], bits: int, first_last_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """Bits by name: those of `overrides`, else of the first and the last one, else `bits`."""
    return {**dict.fromkeys(names, bits), **exceptions(names, first_last_bits, overrides)}


def exceptions(
    names: Sequence[str], first_last_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """The bits of `overrides`, and of the first and the last name unless those have theirs."""
    ends = (
        {}
        if first_last_bits is None or not names
        else dict.fromkeys((names[0], names[-1]), first_last_bits)
    )
    return {**ends, **overrides}
