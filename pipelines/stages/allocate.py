"""Stage: how many bits each layer gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Uniform:
    """The same bits for all layers, but for those named.

    Attributes:
        bits: 1 ... 16.
        ends_bits: of the first and the last layer in their order of use; None: as all.
        overrides: bits of single layers by name.
    """

    bits: int
    ends_bits: int | None
    overrides: Mapping[str, int]

    def __post_init__(self) -> None:
        ends = {} if self.ends_bits is None else {"precision.ends_bits": self.ends_bits}
        check_bits({"bits": self.bits, **ends, **self.overrides})

    def run(self, layers: Iterable[str]) -> dict[str, int]:
        """Bits by layer name.

        Raises:
            ValueError: an override names no layer.
        """
        names = list(layers)
        unknown = [name for name in self.overrides if name not in names]
        if unknown:
            raise ValueError(
                f"precision.overrides names {unknown[0]!r}, which is no layer of this network. "
                f"Its layers: {', '.join(names[:5])}, ... ({len(names)} in all)"
            )
        return spread(names, self.bits, self.ends_bits, self.overrides)


def check_bits(named: Mapping[str, int]) -> None:
    """Raise a ValueError for the first of the settings that is no number of bits."""
    for name, bits in named.items():
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"{name}={bits} must be a whole number from 1 to 16")


def spread(
    names: Sequence[str], bits: int, ends_bits: int | None, overrides: Mapping[str, int]
) -> dict[str, int]:
    """Bits by name: those of `overrides`, else of the first and the last one, else `bits`."""
    ends = {} if ends_bits is None or not names else dict.fromkeys((names[0], names[-1]), ends_bits)
    return {**dict.fromkeys(names, bits), **ends, **overrides}
