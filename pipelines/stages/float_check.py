"""Stage: run the float network twice on a few calibration images.

Outputs that differ are random, and all figures that are computed from them; outputs that never
change say nothing. Both are found before the hours of calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from evaluation.doubts import Passes
from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed

IMAGES = 16


@dataclass(frozen=True)
class CheckFloat:
    """Two passes over the first calibration images."""

    ON_ALL_RANKS: ClassVar[bool] = True

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Record: see `Passes`."""
        twice = _RunTwice(network.module)
        loader = data.value.calibration_loader(first=IMAGES)
        machine.predict("check the network", twice, loader, shard=False)
        return Artifact({}, twice.passes.record())


class _RunTwice(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes = Passes()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images = batch[0]
        self.passes.add(images, self.network(images), self.network(images))
