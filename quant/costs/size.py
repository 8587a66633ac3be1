"""Size: storage of a layer's weights."""

from __future__ import annotations

from dataclasses import dataclass

from quant.costs.workload import Workload, require_bits

FLOATING = 16  # from this many bits on, weights are floating-point numbers without a grid


@dataclass(frozen=True)
class Size:
    """Megabytes (10^6 bytes) of a layer's weights.

    Below 16 bits the weights are packed codes (the last byte padded), plus a scale and a zero point
    (one byte up to 8 bits, else four) per output row. This is how the store keeps them and how
    size_mb in results.json counts them with grid.granularity=channel. From 16 bits on they are
    floating-point numbers, so rows of very few columns can be larger at 8 bits than at 16. Biases,
    and grids of column groups or activations, are not counted.

    Attributes:
        scale_bytes: bytes of an output row's scale.
    """

    scale_bytes: int

    name = "size"
    unit = "MB"

    def __post_init__(self) -> None:
        if self.scale_bytes < 0:
            raise ValueError(f"cost.scale_bytes={self.scale_bytes} must not be negative")

    def cost(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """Megabytes of one layer; act_bits has no effect."""
        require_bits(weight_bits, act_bits)
        codes = -(-workload.weights * weight_bits // 8)
        row = self.scale_bytes + (1 if weight_bits <= 8 else 4)
        return (codes + (workload.shape[0] * row if weight_bits < FLOATING else 0)) / 1e6
