"""Text classifier that runs sequences without their padding."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

# Entries of a transformers config that do not affect outputs, or depend on the location.
UNRELATED = ("_name_or_path", "transformers_version", "architectures", "dtype")


class ByLength(nn.Module):
    """Token ids [b, L], padded at the end -> logits [b, classes].

    Sequences of equal length run together, without padding, so no attention mask is needed and no
    padded position enters a Hessian, a range or a statistic. Every layer runs once for each
    distinct length in the batch.

    Attributes:
        model: a sequence classifier of `transformers`.
        pad: id of the padding token.
    """

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, in the order of the rows."""
        positions = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        lengths = ((ids != self.pad) * positions).amax(1).clamp(min=1)
        distinct = sorted(set(lengths.tolist()))
        rows = [(lengths == n).nonzero()[:, 0] for n in distinct]
        logits = [
            self.model(input_ids=ids[at, :n]).logits for at, n in zip(rows, distinct, strict=True)
        ]
        return torch.cat(logits)[torch.cat(rows).argsort()]

    def extra_repr(self) -> str:
        """The config: entries such as the number of heads appear in no tensor and no module."""
        config: Any = self.model.config
        shown = {k: v for k, v in config.to_diff_dict().items() if k not in UNRELATED}
        return f"pad={self.pad}, config={json.dumps(shown, sort_keys=True, default=str)}"
