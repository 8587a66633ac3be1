"""Send the evaluation images through a network and keep what its task asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning import LightningModule
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.task import Batch, finite


class CollectOutputs(LightningModule):
    """Outputs of the evaluation images, for `Trainer.test`.

    Attributes:
        outputs: tensors [n, ...] on the CPU, in the order of the data set; after the test.
        parts: of this process's batches; where there are several processes, whoever runs the test
            must `join` those of all.
    """

    outputs: dict[str, Tensor]

    def __init__(
        self, task: ImageData, network: nn.Module, reference: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.network, self.reference = network, reference
        self.parts: list[dict[str, Tensor]] = []

    def on_test_epoch_start(self) -> None:
        self.parts = []

    def test_step(self, batch: Batch, batch_index: int) -> None:
        found = self.task.outputs(self.network, self.reference, batch)
        self.parts.append({name: value.detach().cpu() for name, value in found.items()})

    def on_test_epoch_end(self) -> None:
        if self.trainer.world_size == 1:
            self.join(self.parts)

    def join(self, parts: Sequence[dict[str, Tensor]]) -> None:
        """The outputs of all batches, which are in their order.

        Raises:
            ValueError: outputs that are not finite.
        """
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for name, values in joined.items():
            if values.dim() > 1:
                finite(name, values)
        self.outputs, self.parts = joined, []
