"""Roofline: a layer takes as long as its arithmetic or its memory traffic, whichever is slower.

Source: Williams, Waterman and Patterson, *Roofline*, CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

from quant.costs.device import Device
from quant.costs.workload import Workload, require_bits


@dataclass(frozen=True)
class Roofline:
    """Lower bound on the milliseconds that a device takes for one batch.

        time = max(compute, memory) + launches
        compute = 2 macs batch / peak, at the peak of the slower operand width: 4-bit weights run
            at the 8-bit rate with 8-bit inputs, and at the 16-bit rate with half-precision inputs
        memory = (weights at weight_bits + batch (inputs + outputs) at act_bits) / bandwidth

    Widths that the device lacks are rounded up to the next one, separately for arithmetic and
    storage. Caching between layers and the size of grids are ignored.

    Attributes:
        device: a profile from conf/device/.
    """

    device: Device

    name = "roofline"
    unit = "ms"

    def cost(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """Milliseconds of one layer.

        Raises:
            ValueError: the device supports no width of at least that many bits.
        """
        require_bits(weight_bits, act_bits)
        seconds = max(
            self.compute(workload, weight_bits, act_bits),
            self.memory(workload, weight_bits, act_bits),
        )
        return 1e3 * seconds + 1e-3 * self.device.launch_us * workload.calls

    def compute(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """Seconds of arithmetic."""
        widths = (self.device.computes_at(weight_bits), self.device.computes_at(act_bits))
        peak = min(self.device.peak_tops[width] for width in widths)
        return 2 * workload.macs * self.device.batch / (1e12 * peak)

    def memory(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """Seconds of memory traffic; every call of the layer reads its weights again."""
        weights = workload.weights * workload.calls * self.device.stores_at(weight_bits)
        activations = self.device.batch * (workload.inputs + workload.outputs)
        bits = weights + activations * self.device.stores_at(act_bits)
        return bits / 8 / (1e9 * self.device.bandwidth_gb_s)
