"""Roofline: a layer takes as long as its arithmetic or its traffic, whichever is slower.

Source: Williams, Waterman and Patterson, *Roofline*, CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

from quant.costs.device import Device
from quant.costs.workload import Workload, require_bits


@dataclass(frozen=True)
class Roofline:
    """Milliseconds that a device takes at least for one batch.

        time = max(compute, memory) + launches
        compute = 2 macs batch / peak, the peak of the slower operand width: 4-bit weights with
            8-bit inputs run at the 8-bit rate, with half-precision inputs at that of 16 bits
        memory = (weights at weight_bits + batch (inputs + outputs) at act_bits) / bandwidth

    A width that the device does not have rounds up to the next one it has, for arithmetic and for
    storage on their own. Nothing stays in a cache between layers, and grids do not count.

    Attributes:
        device: its numbers, see conf/device/.
    """

    device: Device

    name = "roofline"
    unit = "ms"

    def cost(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Of one layer.

        Raises:
            ValueError: the device has no width of so many bits.
        """
        require_bits(weight_bits, act_bits)
        seconds = max(
            self.compute(work, weight_bits, act_bits), self.memory(work, weight_bits, act_bits)
        )
        return 1e3 * seconds + 1e-3 * self.device.launch_us * work.calls

    def compute(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Seconds of arithmetic."""
        widths = (self.device.computes_at(weight_bits), self.device.computes_at(act_bits))
        peak = min(self.device.peak_tops[width] for width in widths)
        return 2 * work.macs * self.device.batch / (1e12 * peak)

    def memory(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Seconds of traffic; every call of the layer reads its weights anew."""
        weights = work.weights * work.calls * self.device.stores_at(weight_bits)
        numbers = self.device.batch * (work.inputs + work.outputs)
        bits = weights + numbers * self.device.stores_at(act_bits)
        return bits / 8 / (1e9 * self.device.bandwidth_gb_s)
