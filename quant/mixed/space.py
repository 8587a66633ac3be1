"""Configurations (a bit width for each layer) with their costs and predicted losses.

Letters: N layers, B bit widths in ascending order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FULL = 16  # from this many bits on, a layer counts as unquantized in predictions

Config = tuple[int, ...]
"""For each layer, the index of its width, 0 ... B - 1."""


@dataclass(frozen=True, eq=False)
class Space:
    """The search space.

    Attributes:
        names: names of the N layers.
        widths: the B bit widths, ascending.
        costs: cost of each layer at each width [N, B], in a unit that adds up over layers.
        sensitivity: sensitivity of each layer at each width [N, B]; higher is worse.
        couplings: A [N, B, N, B] of `quant.mixed.couplings`, 0 where it was not measured; None
            treats layers as independent.
    """

    names: Sequence[str]
    widths: Sequence[int]
    costs: Tensor
    sensitivity: Tensor
    couplings: Tensor | None = None

    def __post_init__(self) -> None:
        N, B = len(self.names), len(self.widths)
        if list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"widths {list(self.widths)} must be strictly ascending")
        for what in ("costs", "sensitivity"):
            if getattr(self, what).shape != (N, B):
                raise ValueError(f"{what} are {list(getattr(self, what).shape)}, not [{N}, {B}]")
        if self.couplings is not None and self.couplings.shape != (N, B, N, B):
            raise ValueError(f"couplings are {list(self.couplings.shape)}, not [N, B, N, B]")

    @property
    def widest(self) -> Config:
        """Every layer at the most bits."""
        return (len(self.widths) - 1,) * len(self.names)

    @property
    def narrowest(self) -> Config:
        """Every layer at the fewest bits."""
        return (0,) * len(self.names)

    def cost(self, config: Config) -> float:
        """Total cost of all layers."""
        return float(self.costs[torch.arange(len(config)), list(config)].sum())

    def predicted(self, config: Config) -> float:
        """The predicted divergence: 1/2 x^T A x, or without couplings the sum of sensitivities."""
        rows = torch.arange(len(config))
        if self.couplings is None:
            return float(self.sensitivity[rows, list(config)].sum())
        chosen = self.couplings[rows, list(config)][:, rows, list(config)]
        return float(chosen.sum() / 2)

    def bits(self, config: Config) -> dict[str, int]:
        """Bits by layer."""
        return {name: self.widths[at] for name, at in zip(self.names, config, strict=True)}
