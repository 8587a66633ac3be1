"""Stage: cost of the whole network at the chosen bits, and at 16 bits throughout.

What is not quantized counts too, at 16 bits: else a network of which a thousandth is quantized
would be told to cost a quarter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from evaluation.images import ImageData
from pipelines.models.network import Network
from quant.costs.remainder import operations, stored
from quant.costs.roofline import Roofline
from quant.costs.size import Size
from quant.costs.workload import CostModel, Workload, workloads
from quant.layers import Layer

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
        network: Network,
        data: ImageData,
        layers: Mapping[str, Layer],
        bits: Mapping[str, int],
        inputs: Mapping[str, int] | None,
    ) -> dict[str, Any]:
        """Entries of results.json.

        Args:
            network: the float network.
            data: images, one of which gives the layers' input shapes.
            layers: the quantized layers, by name.
            bits: bits of their weights.
            inputs: bits of their inputs; 16 for a layer without an entry; None: no input has any.
        """
        example, _ = next(iter(data.calibration_loader(first=1)))
        layer_workloads = workloads(network.module, example, layers)
        others = operations(network.module, example, layers)
        rest = stored(network.module, layers)
        chosen = {name: (bits[name], (inputs or {}).get(name, HALF)) for name in layers}
        half = dict.fromkeys(layers, (HALF, HALF))
        costs, widest = (
            {
                name: sum(model.cost(layer_workloads[n], *widths[n]) for n in layers)
                + sum(
                    model.cost(other, HALF, HALF)
                    for other in ([rest] if isinstance(model, Size) else others)
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
            "coverage": coverage(network.module, layer_workloads, others, inputs),
        }


def coverage(
    module: nn.Module,
    layers: Mapping[str, Workload],
    others: Sequence[Workload],
    inputs: Mapping[str, int] | None,
) -> dict[str, float | None]:
    """How much of the network is quantized, in percent.

    Args:
        module: the float network.
        layers: workloads of the quantized layers.
        others: those of all other operations.
        inputs: bits of the layers' inputs; None if these are not quantized.

    Returns:
        weights: of the elements of parameters with two or more dimensions.
        macs: of the multiply-adds.
        inputs: of the layers, those whose input is quantized; None if none should be.
    """
    weights = sum(p.numel() for p in module.parameters() if p.dim() >= 2)
    done = sum(work.macs for work in layers.values())
    return {
        "weights": 100 * sum(work.weights for work in layers.values()) / weights,
        "macs": 100 * done / max(1, done + sum(work.macs for work in others)),
        "inputs": 100 * len(inputs.keys() & layers.keys()) / len(layers)
        if inputs is not None
        else None,
    }
