"""Bit operations: multiply-adds times the bit widths of both operands.

Source: Baskin et al., *UNIQ*, arXiv 1804.10969; without its small accumulator term, as in van
Baalen et al., *Bayesian Bits*, arXiv 2005.07093.
"""

from __future__ import annotations

from dataclasses import dataclass

from quant.costs.workload import Workload, require_bits


@dataclass(frozen=True)
class Bops:
    """10^9 bit operations per image; 16- and 32-bit floats count with their full width."""

    name = "bops"
    unit = "GBOPs"

    def cost(self, workload: Workload, weight_bits: int, act_bits: int) -> float:
        """Bit operations of one layer."""
        require_bits(weight_bits, act_bits)
        return workload.macs * weight_bits * act_bits / 1e9
