"""Stage: what the network costs at the bits that were chosen, and at 16 bits throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant.costs.roofline import Roofline
from quant.costs.workload import CostModel, Workload

HALF = 16  # bits of what is not quantized, and of the network that is compared with


@dataclass(frozen=True)
class Costs:
    """The layers' costs, summed.

    Attributes:
        models: by name; those of conf/cost/ that need no timing.
    """

    models: Mapping[str, CostModel]

    def run(
        self,
        work: Mapping[str, Workload],
        bits: Mapping[str, int],
        inputs: Mapping[str, int],
    ) -> dict[str, Any]:
        """Entries of results.json.

        Args:
            work: of the layers that were quantized, on one image.
            bits: of their weights.
            inputs: bits of their inputs; 16 where it names none.
        """
        chosen = {name: (bits[name], inputs.get(name, HALF)) for name in work}
        half = dict.fromkeys(work, (HALF, HALF))
        costs, widest = (
            {
                name: sum(model.cost(work[n], *widths[n]) for n in work)
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
