"""Stage: trace of every layer's Hessian of the divergence from the float network.

No labels are used. The float network minimises the divergence, so its Hessian there is positive
semidefinite and no trace is negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evaluation.images import ImageData
from evaluation.task import Batch
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.layers import Layer
from quant.mixed.hutchinson import traces


@dataclass(frozen=True)
class MeasureTraces:
    """Traces by Hutchinson's estimator: a Hessian-vector product per layer, draw and batch.

    Attributes:
        images: maximum number of calibration images.
        draws: random sign vectors per layer and batch.
        seed: seed for the sign vectors.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    images: int
    draws: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("images", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"precision.traces.{name}={getattr(self, name)} must be at least 1"
                )

    def run(
        self,
        network: Network,
        layers: Keyed[Mapping[str, Layer]],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: trace [N], mean over images. Record: layer names in the same order."""
        collect = CollectTraces(data.value, network.module, layers.value, self.draws, self.seed)
        loader = data.value.calibration_loader(first=self.images)
        machine.predict("traces", collect, loader)
        images = sum(machine.ranks.gather(collect.images))
        return Artifact(
            {"trace": machine.ranks.sum(collect.total) / images},
            {"layers": list(layers.value), "images": images},
        )


class CollectTraces(nn.Module):
    """Sums the traces over images."""

    def __init__(
        self,
        data: ImageData,
        network: nn.Module,
        layers: Mapping[str, Layer],
        draws: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.data, self.network, self.layers = data, network, layers
        self.draws, self.seed = draws, seed
        self.total = torch.zeros(len(layers), dtype=torch.float64)
        self.images = 0

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Process one batch; only the math attention kernel supports double backward."""
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = batch[0].clone()
            weights = [self.network.get_parameter(layer.weight) for layer in self.layers.values()]
            required_grad = [weight.requires_grad for weight in weights]
            for weight in weights:
                weight.requires_grad_(True)
            outputs = self.network(x)
            with torch.no_grad():
                expected = self.network(x)
            loss = self.data.divergence(self.network, expected, outputs).sum()
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch_idx)
            self.total += traces(loss, weights, self.draws, generator)
            for weight, before in zip(weights, required_grad, strict=True):
                weight.requires_grad_(before)
            self.images += len(x)
