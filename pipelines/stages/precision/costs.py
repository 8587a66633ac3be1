"""Stage: cost of the network at the chosen bits, and at 16 bits throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant.costs.roofline import Roofline
from quant.costs.workload import CostModel, Workload

HALF = 16  # bits of unquantized tensors, and of the network to compare with


@dataclass(frozen=True)
class Costs:
    """Sums of the layers' costs.

    Attributes:
        models: cost models by name: those of conf/cost/ that need no timing.
    """

    models: Mapping[str, CostModel]

    def run(
        self,
        workloads: Mapping[str, Workload],
        bits: Mapping[str, int],
        inputs: Mapping[str, int],
    ) -> dict[str, Any]:
        """Entries of results.json.

        Args:
            workloads: workloads of the quantized layers, by name.
            bits: bits of their weights.
            inputs: bits of their inputs; 16 for a layer without an entry.
        """
        chosen = {name: (bits[name], inputs.get(name, HALF)) for name in workloads}
        half = dict.fromkeys(workloads, (HALF, HALF))
        costs, widest = (
            {
                name: sum(model.cost(workloads[n], *widths[n]) for n in workloads)
                for name, model in self.models.items()
            }
            for widths in (chosen, half)
        )
        devices = [m.device.title for m in self.models.values() if isinstance(m, Roofline)]
        return {
            "costs": costs,
            "costs_at_16_bits": widest,
            "cost_units": {name: model.unit for name, model in self.models.items()},
            "device": devices[0] if devices else None,
        }
