"""Bit widths by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches


def check_bits(named: Mapping[str, int]) -> None:
    """Raise a ValueError for the first setting {name: bits} that is not a valid bit width."""
    for name, bits in named.items():
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"{name}={bits} must be a whole number from 1 to 16")


def check_layers(setting: str, named: Iterable[str], layers: Sequence[str]) -> None:
    """Raise a ValueError for the first name that is not a layer; it suggests the nearest ones.

    Args:
        setting: where the names were given.
        named: names to check.
        layers: the network's layers, in their order of use.
    """
    for name in named:
        if name in layers:
            continue
        inside = [layer for layer in layers if layer.startswith(f"{name}.")]  # of a module's name
        near = dict.fromkeys([*inside, *get_close_matches(name, layers, n=3, cutoff=0.4)])
        hint = f"did you mean {' or '.join(list(near)[:3])}?" if near else ""
        raise ValueError(
            f"{setting} names {name!r}, which is no layer of this network (it has {len(layers)}): "
            f"{hint or ', '.join([*layers[:5], '...'])}"
        )


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
