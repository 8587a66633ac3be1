"""A text network that never sees padding."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

# Entries of a transformers config that move no output, or name a place.
UNRELATED = ("_name_or_path", "transformers_version", "architectures", "dtype")


class ByLength(nn.Module):
    """Token ids [b, L], padded at their ends -> logits [b, classes].

    Rows of one length run together and without their padding, so that no attention mask is needed
    and no padded position enters a Hessian, a range or a statistic. Every layer runs once for each
    length in the batch.

    Attributes:
        model: of `transformers`, for the classification of sequences.
        pad: the id that padding consists of.
    """

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, ids: Tensor) -> Tensor:
        """Logits in the order of the rows."""
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        lengths = ((ids != self.pad) * places).amax(1).clamp(min=1)
        found = sorted(set(lengths.tolist()))
        rows = [(lengths == n).nonzero()[:, 0] for n in found]
        logits = [
            self.model(input_ids=ids[at, :n]).logits for at, n in zip(rows, found, strict=True)
        ]
        return torch.cat(logits)[torch.cat(rows).argsort()]

    def extra_repr(self) -> str:
        """The config, whose entries (number of heads, ...) no tensor and no module shows."""
        config: Any = self.model.config
        shown = {k: v for k, v in config.to_diff_dict().items() if k not in UNRELATED}
        return f"pad={self.pad}, config={json.dumps(shown, sort_keys=True, default=str)}"
