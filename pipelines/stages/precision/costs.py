"""Stage: cost of the whole network at the chosen bits, and at 16 bits throughout.

What is not quantized counts too, at 16 bits: else a network of which a thousandth is quantized
would be told to cost a quarter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant.costs.remainder import Remainder
from quant.costs.roofline import Roofline
from quant.costs.size import Size
from quant.costs.workload import CostModel, Workload

HALF = 16  # bits of unquantized tensors, and of the network to compare with


@dataclass(frozen=True)
class Costs:
    """Sums of the costs of the layers and of all other operations with multiply-adds.

    Attributes:
        models: cost models by name: those of conf/cost/ that need no timing.
    """

    models: Mapping[str, CostModel]

    def run(
        self,
        workloads: Mapping[str, Workload],
        rest: Remainder,
        bits: Mapping[str, int],
        inputs: Mapping[str, int] | None,
    ) -> dict[str, Any]:
        """Entries of results.json.

        Args:
            workloads: workloads of the quantized layers, by name.
            rest: what else the network does and holds.
            bits: bits of their weights.
            inputs: bits of their inputs; 16 for a layer without an entry; None: no input has any.
        """
        chosen = {name: (bits[name], (inputs or {}).get(name, HALF)) for name in workloads}
        half = dict.fromkeys(workloads, (HALF, HALF))
        costs, widest = (
            {
                name: sum(model.cost(workloads[n], *widths[n]) for n in workloads)
                + sum(
                    model.cost(other, HALF, HALF)
                    for other in ([rest.stored] if isinstance(model, Size) else rest.operations)
                )
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
            "coverage": coverage(workloads, rest, inputs),
        }


def coverage(
    layers: Mapping[str, Workload], rest: Remainder, inputs: Mapping[str, int] | None
) -> dict[str, float | None]:
    """How much of the network is quantized, in percent.

    Args:
        layers: workloads of the quantized layers.
        rest: what else the network does and holds.
        inputs: bits of the layers' inputs; None if these are not quantized.

    Returns:
        weights: of the elements of parameters with two or more dimensions.
        macs: of the multiply-adds.
        inputs: of the layers, those whose input is quantized; None if none should be.
    """
    weights, done = (sum(getattr(w, k) for w in layers.values()) for k in ("weights", "macs"))
    return {
        "weights": 100 * weights / (weights + rest.matrices),
        "macs": 100 * done / max(1, done + sum(work.macs for work in rest.operations)),
        "inputs": 100 * len(inputs.keys() & layers.keys()) / len(layers)
        if inputs is not None
        else None,
    }
