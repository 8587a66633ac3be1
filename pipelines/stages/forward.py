"""Forward passes for their side effects: hooks, statistics."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from torch import Tensor, nn


class Forward(LightningModule):
    """Runs the network and leaves every module in the mode (train or eval) that it has."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.modes = {m: m.training for m in network.modules()}

    def on_predict_start(self) -> None:
        """Restore the modes: Lightning has switched everything to eval mode."""
        for module, training in self.modes.items():
            module.training = training

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        """Run one batch."""
        return self.network(batch[0])
