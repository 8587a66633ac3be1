"""Bit operations: multiply-adds times the widths of both operands.

Source: Baskin et al., *UNIQ*, arXiv 1804.10969; without its small term for the accumulator, as van
Baalen et al., *Bayesian Bits*, arXiv 2005.07093, count them.
"""

from __future__ import annotations

from dataclasses import dataclass

from quant.costs.workload import Workload, require_bits


@dataclass(frozen=True)
class Bops:
    """10^9 bit operations of one image; 16 and 32 bits of a floating-point number count in full."""

    name = "bops"
    unit = "GBOPs"

    def cost(self, work: Workload, weight_bits: int, act_bits: int) -> float:
        """Of one layer."""
        require_bits(weight_bits, act_bits)
        return work.macs * weight_bits * act_bits / 1e9
