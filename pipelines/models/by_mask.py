"""Text classifier whose graph is the same for sequences of all lengths, for export."""

from __future__ import annotations

from torch import Tensor, nn

from pipelines.models.by_length import ByLength


class ByMask(nn.Module):
    """Token ids [b, L], padded at the end -> logits [b, classes], as `ByLength` computes them.

    Sequences run together, and an attention mask hides their padding. All names are those in
    `ByLength`, so that a quantized state of one fits the other.
    """

    def __init__(self, network: ByLength) -> None:
        super().__init__()
        self.model = network.model
        self.pad = network.pad

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, in the order of the rows."""
        logits: Tensor = self.model(input_ids=ids, attention_mask=(ids != self.pad).long()).logits
        return logits
