"""A network that a program has in memory, in the place of a model of the command line."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipelines.models.network import DATA_KEYS, Network


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A copy of `module`; `example` is one of its inputs [...]."""

    module: nn.Module
    example: Tensor

    def check(self) -> None:
        """There is nothing to check before the network runs."""

    def load(self, store: object) -> Network:
        """The network, named after its class. `store` is unused."""
        module = deepcopy(self.module)
        return Network.of(module, type(module).__name__, self._data_config())

    def _data_config(self) -> dict[str, Any]:
        """That of inputs which are not preprocessed any more."""
        size = (1, 1, 1, *self.example.shape)[-3:]
        values = (size, "bilinear", (0.0,), (1.0,), 1.0, "center")
        return dict(zip(DATA_KEYS, values, strict=True))
