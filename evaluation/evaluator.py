"""Send the evaluation images through a network and keep what its task asks for."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from evaluation.images import Batch, ImageData, finite


class CollectOutputs(LightningModule):
    """Outputs of the evaluation images, for `Trainer.test`.

    Attributes:
        outputs: tensors [n, ...] on the CPU, in the order of the data set; after the test.
    """

    outputs: dict[str, Tensor]

    def __init__(
        self, task: ImageData, network: nn.Module, reference: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.network, self.reference = network, reference
        self._parts: list[dict[str, Tensor]] = []

    def on_test_epoch_start(self) -> None:
        self._parts = []

    def test_step(self, batch: Batch, batch_index: int) -> None:
        found = self.task.outputs(self.network, self.reference, batch)
        self._parts.append({name: value.detach().cpu() for name, value in found.items()})

    def on_test_epoch_end(self) -> None:
        """Join the batches of all ranks.

        Raises:
            ValueError: outputs that are not finite.
        """
        joined = {name: torch.cat([p[name] for p in self._parts]) for name in self._parts[0]}
        if self.trainer.world_size > 1:
            joined = {name: self._from_ranks(part) for name, part in joined.items()}
        for name, values in joined.items():
            if values.dim() > 1:
                finite(name, values)
        self.outputs, self._parts = joined, []

    def _from_ranks(self, part: Tensor) -> Tensor:
        """Undo the sampler: rank r of R had images r, r + R, ..., padded at the end."""
        gathered: Any = self.all_gather(part)  # [R, m, ...]
        loader: Any = self.trainer.test_dataloaders
        return torch.as_tensor(gathered).cpu().transpose(0, 1).flatten(0, 1)[: len(loader.dataset)]
