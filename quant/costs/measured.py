"""Measured latency: timings of each layer on the target machine, by exact geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quant.costs.workload import Workload, require_bits

KERNELS = {"int8": 8, "float32": 32}  # maximum bit width that each timed kernel stands for


@dataclass(frozen=True)
class Timing:
    """Timing of one call of a layer, in milliseconds.

    Attributes:
        ms: median over the runs.
        low, high: 10th and 90th percentile.
        runs: number of runs.
        interrupted: number of runs during which another process preempted this one.
    """

    ms: float
    low: float
    high: float
    runs: int
    interrupted: int = 0


@dataclass(frozen=True)
class Measured:
    """Milliseconds per image, looked up in a table.

    There are two kernels: int8 if weights and inputs both have at most 8 bits (4 bits run as 8),
    else float32 (16 bits run as 32, and so do 4-bit weights with 16-bit inputs).

    Attributes:
        table: {`LayerGeometry.key`: {kernel: Timing}}.
    """

    table: Mapping[str, Mapping[str, Timing]] = field(hash=False)

    name = "measured"
    unit = "ms"

    def cost(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """Milliseconds of one layer, summed over its calls.

        Raises:
            ValueError: a call was not timed.
        """
        return sum(timing.ms for timing in self.timings(workload, weight_bits, act_bits))

    def timings(self, workload: Workload, weight_bits: int, act_bits: int) -> list[Timing]:
        """Timings of all calls of a layer.

        Raises:
            ValueError: a call was not timed.
        """
        require_bits(weight_bits, act_bits)
        name, keys = kernel(weight_bits, act_bits), [g.key for g in workload.geometries]
        missing = [key for key in keys if name not in self.table.get(key, {})]
        if missing or not keys:
            what = missing[0] if missing else "an unknown geometry (its workload lists no calls)"
            raise ValueError(
                f"layer {workload.name}: no {name} timing of {what}. Time the layers of this "
                "network on images of this size first"
            )
        return [self.table[key][name] for key in keys]


def kernel(weight_bits: int, act_bits: int) -> str:
    """The narrowest kernel that fits both operands."""
    return next(name for name, width in KERNELS.items() if max(weight_bits, act_bits) <= width)
