"""Measured: the time that each layer took where it was run, by its exact geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quant.costs.workload import Workload, require_bits

KERNELS = {"int8": 8, "float32": 32}  # what was run, and up to how many bits it stands for


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one use of a layer.

    Attributes:
        ms: median over the runs.
        low, high: 10th and 90th percentile.
        runs: how many.
        interrupted: how many of them stood still for a while, as another process ran.
    """

    ms: float
    low: float
    high: float
    runs: int
    interrupted: int = 0


@dataclass(frozen=True)
class Measured:
    """Milliseconds for one image, looked up in a table.

    There are two kernels: int8 where weights and inputs have at most 8 bits (4 bits run as 8), and
    float32 for all else (16 bits run as 32, and so do 4-bit weights with 16-bit inputs).

    Attributes:
        table: {`Use.key`: {kernel: Timing}}.
    """

    table: Mapping[str, Mapping[str, Timing]] = field(hash=False)

    name = "measured"
    unit = "ms"

    def cost(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Of one layer, all its uses together.

        Raises:
            ValueError: a use was not timed.
        """
        return sum(timing.ms for timing in self.timings(work, weight_bits, act_bits))

    def timings(self, work: Workload, weight_bits: int, act_bits: int) -> list[Timing]:
        """Of every use of a layer, with its spread."""
        require_bits(weight_bits, act_bits)
        which = kernel(weight_bits, act_bits)
        missing = [use.key for use in work.uses if which not in self.table.get(use.key, {})]
        if missing or not work.uses:
            what = missing[0] if missing else "of unknown geometry (its work holds no uses)"
            raise ValueError(
                f"layer {work.name}: no {which} timing of {what}. Time the layers of this network "
                "on images of this size first"
            )
        return [self.table[use.key][which] for use in work.uses]


def kernel(weight_bits: int, act_bits: int) -> str:
    """The narrowest kernel that holds both operands."""
    return next(name for name, width in KERNELS.items() if max(weight_bits, act_bits) <= width)
