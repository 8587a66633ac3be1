"""Run a network on the evaluation images and collect the outputs its task needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.task import Batch, finite


class CollectOutputs(nn.Module):
    """Collects the outputs for all evaluation images; run it with `Machine.test`.

    Attributes:
        outputs: tensors [n, ...] on the CPU, in the order of the data set; set by `join`.
        parts: outputs of this process's batches.
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
        """Collect the outputs of one batch."""
        outputs = self.task.outputs(self.network, self.reference, batch)
        self.parts.append({name: value.detach().cpu() for name, value in outputs.items()})

    def join(self, parts: Sequence[dict[str, Tensor]]) -> None:
        """Concatenate the outputs of all batches, given in order.

        Raises:
            ValueError: some outputs are not finite.
        """
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for name, values in joined.items():
            if values.dim() > 1:
                finite(name, values)
        self.outputs, self.parts = joined, []
