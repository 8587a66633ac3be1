"""Configurations: a number of bits for every layer, what they cost and what they are thought to do.

Letters: N layers, B widths (numbers of bits, ascending).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FULL = 16  # bits from which a layer counts as unchanged in what is predicted

Config = tuple[int, ...]
"""Which of the widths every layer has, by place: 0 ... B - 1."""


@dataclass(frozen=True, eq=False)
class Space:
    """What a search knows.

    Attributes:
        names: of the layers, N.
        widths: bits, ascending, B.
        costs: of every layer at every width [N, B], in one unit; a sum over layers is meant.
        sensitivity: of every layer at every width [N, B]; higher is worse.
        couplings: A [N, B, N, B] of `quant.mixed.couplings`, 0 for changes that were not measured;
            None: layers are thought of as independent.
    """

    names: Sequence[str]
    widths: Sequence[int]
    costs: Tensor
    sensitivity: Tensor
    couplings: Tensor | None = None

    def __post_init__(self) -> None:
        N, B = len(self.names), len(self.widths)
        if list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"widths {list(self.widths)} must be ascending, each once")
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
        """Of all layers together."""
        return float(self.costs[torch.arange(len(config)), list(config)].sum())

    def predicted(self, config: Config) -> float:
        """What the divergence is thought to be: 1/2 x^T A x, or the sum of sensitivities."""
        rows = torch.arange(len(config))
        if self.couplings is None:
            return float(self.sensitivity[rows, list(config)].sum())
        chosen = self.couplings[rows, list(config)][:, rows, list(config)]
        return float(chosen.sum() / 2)

    def bits(self, config: Config) -> dict[str, int]:
        """Bits by layer."""
        return {name: self.widths[at] for name, at in zip(self.names, config, strict=True)}
