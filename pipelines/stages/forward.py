"""Running a network for what happens inside it: hooks, statistics."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Forward(nn.Module):
    """Runs the network in the modes that its modules already have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.modes = {m: m.training for m in network.modules()}

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        """One batch. Lightning keeps no gradients, and has put everything into eval mode."""
        for module, training in self.modes.items():
            module.training = training
        return self.network(batch[0])
