"""How long and how fast the rounding is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps and rates.

    Attributes:
        steps: of the optimisers.
        batch_size: images a step.
        micro_batch_size: images at a time; a step adds up their gradients, so it bounds memory.
        rounding_lr: Adam, on the rounding variables.
        scale_lr: Adam, on the logarithms of the weights' step sizes.
        bias_lr: Adam, on all biases.
        activation_lr: Adam with cosine, on the logarithms of the inputs' step sizes.
        regularisation: lambda.
        beta: exponent of the regulariser, first and last.
        warmup: fraction of the steps before the exponent moves.
        gradual: fraction of the steps in which activations become quantized.
        average: fraction of the steps that the network to be kept is an average of, with weights
            that fall off exponentially; 0: no average.
        decay: all rates fall to 0 like a cosine, not that of the activations alone.
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
            raise ValueError(f"schedule.beta={self.beta} must be two numbers, at least 1")
