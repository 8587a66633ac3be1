"""Stage: what the float network answers to the calibration images that corrections are judged on.

The same for every method and bit width, so the jobs of a sweep run the float network for it once.
Only logits are kept: maps of boxes or masks are larger than all else that a run stores.
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
    """Logits of the last so many calibration images."""

    TOGETHER: ClassVar[bool] = True

    images: int

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Tensors: of each batch of `last`, by number, logits [b, classes], or nothing."""
        module = _Keep(network.module)
        machine.predict("float outputs", module, last(data.value, self.images))
        batches = machine.ranks.union(module.found)
        return Artifact({str(number): batches[number] for number in sorted(batches)}, {})


def last(data: ImageData, images: int) -> Batches:
    """The last so many calibration images."""
    return data.calibration_loader(start=max(0, len(data.calibration) - images))


def logits_of(found: Artifact | None) -> dict[int, Tensor]:
    """What `FloatLogits` has stored, by batch; nothing of None."""
    return {int(number): logits for number, logits in found.tensors.items()} if found else {}


class _Keep(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.found: dict[int, Tensor] = {}
        self.wanted = True

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if not self.wanted:
            return
        outputs = self.network(batch[0])
        self.wanted = isinstance(outputs, Tensor) and outputs.ndim == 2
        if self.wanted:
            self.found[batch_idx] = outputs.cpu()
