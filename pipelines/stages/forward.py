"""Forward passes for their side effects: hooks, statistics."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Forward(nn.Module):
    """Runs the network and leaves every module in the mode (train or eval) that it has."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.modes = {m: m.training for m in network.modules()}

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        """Run one batch, after restoring the modes: Lightning has switched to eval mode."""
        for module, training in self.modes.items():
            module.training = training
        return self.network(batch[0])
