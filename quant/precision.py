"""Numbers of bits by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches


def check_bits(named: Mapping[str, int]) -> None:
    """Raise a ValueError for the first of the settings that is no number of bits."""
    for name, bits in named.items():
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"{name}={bits} must be a whole number from 1 to 16")


def check_layers(setting: str, named: Iterable[str], layers: Sequence[str]) -> None:
    """Raise a ValueError for the first name that is none of the layers; it names the nearest ones.

    Args:
        setting: where the names were given.
        named: names to check.
        layers: those that there are, in their order of use.
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


def spread(
    names: Sequence[str], bits: int, ends_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """Bits by name: those of `overrides`, else of the first and the last one, else `bits`."""
    return {**dict.fromkeys(names, bits), **exceptions(names, ends_bits, overrides)}


def exceptions(
    names: Sequence[str], ends_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """The bits of `overrides`, and of the first and the last name unless those have theirs."""
    ends = {} if ends_bits is None or not names else dict.fromkeys((names[0], names[-1]), ends_bits)
    return {**ends, **overrides}
