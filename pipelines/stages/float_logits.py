"""Stage: the float network's logits on the images that decide whether a correction is kept.

They do not depend on method or bit width, so a sweep computes them once. Only logits are stored:
box or mask outputs would be larger than everything else that a run stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from evaluation.datasets import Batches
from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed


@dataclass(frozen=True)
class FloatLogits:
    """Logits on the last calibration images.

    Attributes:
        images: number of images.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    images: int

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Tensors: logits [b, classes] of each batch, by index; none for other outputs."""
        module = _CollectLogits(network.module)
        machine.predict("float outputs", module, last(data.value, self.images))
        batches = machine.ranks.union(module.logits)
        return Artifact({str(index): batches[index] for index in sorted(batches)}, {})


def last(data: ImageData, images: int) -> Batches:
    """The last `images` calibration images."""
    return data.calibration_loader(start=max(0, len(data.calibration) - images))


def logits_of(artifact: Artifact | None) -> dict[int, Tensor]:
    """Logits that `FloatLogits` stored, by batch index; empty for None."""
    return {int(index): logits for index, logits in artifact.tensors.items()} if artifact else {}


class _CollectLogits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.logits: dict[int, Tensor] = {}
        self.active = True

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if not self.active:
            return
        outputs = self.network(batch[0])
        self.active = isinstance(outputs, Tensor) and outputs.ndim == 2
        if self.active:
            self.logits[batch_idx] = outputs.cpu()
