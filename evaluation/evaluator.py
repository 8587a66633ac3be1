"""Send the evaluation images through a network and keep what its task asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.task import Batch, finite


class CollectOutputs(nn.Module):
    """Outputs of the evaluation images, batch by batch; `join` puts them together.

    Attributes:
        outputs: tensors [n, ...] on the CPU, in the order of the data set; after `join`.
        parts: of the batches that were seen here.
    """

    outputs: dict[str, Tensor]

    def __init__(
        self, task: ImageData, network: nn.Module, reference: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.network, self.reference = network, reference
        self.parts: list[dict[str, Tensor]] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch."""
        found = self.task.outputs(self.network, self.reference, batch)
        self.parts.append({name: value.detach().cpu() for name, value in found.items()})

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
