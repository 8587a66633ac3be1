"""Size: what the weights of a layer take where they are stored."""

from __future__ import annotations

from dataclasses import dataclass

from quant.costs.workload import Workload, require_bits

FLOATING = 16  # bits from which weights are floating-point numbers, and need no grid


@dataclass(frozen=True)
class Size:
    """Megabytes (10^6 bytes) of a layer's weights.

    Below 16 bits they are packed codes (code after code, the last byte filled up), and for every
    output row a scale and a zero point (one byte up to 8 bits, else four): what the store keeps
    and results.json's size_mb counts with grid.granularity=row. From 16 bits on they are
    floating-point numbers. So rows of very few columns can be larger at 8 bits than at 16. Biases,
    and grids of columns or of activations, are not counted.

    Attributes:
        scale_bytes: of the scale of an output row.
    """

    scale_bytes: int

    name = "size"
    unit = "MB"

    def __post_init__(self) -> None:
        if self.scale_bytes < 0:
            raise ValueError(f"cost.scale_bytes={self.scale_bytes} must not be negative")

    def cost(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Of one layer; the bits of its activations make no difference."""
        require_bits(weight_bits, act_bits)
        codes = -(-work.weights * weight_bits // 8)
        row = self.scale_bytes + (1 if weight_bits <= 8 else 4)
        return (codes + (work.shape[0] * row if weight_bits < FLOATING else 0)) / 1e6
