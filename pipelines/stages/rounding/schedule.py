"""Schedule of the rounding training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rates.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step.
        micro_batch_size: images per forward pass; gradients are accumulated, so this bounds memory.
        rounding_lr: Adam's rate for the rounding variables.
        scale_lr: Adam's rate for the logarithms of the weights' step sizes.
        bias_lr: Adam's rate for all biases.
        activation_lr: Adam's rate for the logarithms of the activations' step sizes, with cosine
            decay.
        regularisation: lambda, weight of the regulariser.
        beta: first and last exponent of the regulariser.
        warmup: fraction of the steps before the exponent changes.
        gradual: fraction of the steps over which activation quantization sets in.
        average: window of the exponential moving average of the parameters, as a fraction of the
            steps; 0: no average.
        decay: cosine decay of all learning rates, not only `activation_lr`.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    rounding_lr: float
    scale_lr: float
    bias_lr: float
    activation_lr: float
    regularisation: float
    beta: Sequence[float]
    warmup: float
    gradual: float
    average: float
    decay: bool

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"schedule.warmup={self.warmup} must lie in [0, 1)")
        for name in ("gradual", "average"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"schedule.{name}={getattr(self, name)} must lie in [0, 1]")
        if len(self.beta) != 2 or min(self.beta) < 1:
            raise ValueError(f"schedule.beta={self.beta} must be two numbers of at least 1")
