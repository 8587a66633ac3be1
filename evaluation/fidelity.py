"""Fidelity of a quantized network to the float one on the same images.

Source of the interval: Bonett & Price, Adjusted Wald Confidence Interval for a Difference of
Binomial Proportions Based on Paired Data, J. of Educational and Behavioral Statistics 37(4), 2012.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from statistics import NormalDist
from typing import TypedDict

from torch import Tensor
from torch.nn.functional import kl_div


class Drop(TypedDict):
    """Accuracy drop in percentage points; positive if the quantized network is less accurate."""

    points: float
    ci95: list[float]


@dataclass(frozen=True)
class Distance:
    """Sums over outputs; the distances of batches add up.

    Attributes:
        agreeing, decisions: number of equal decisions, and of all decisions compared.
        kl, distributions: sum of KL divergences in nats, and number of distributions.
        signal, noise: sums of squares of the float outputs and of the difference.
    """

    agreeing: float = 0.0
    decisions: float = 0.0
    kl: float = 0.0
    distributions: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def __add__(self, other: Distance) -> Distance:
        return Distance(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, float]:
        """agreement in percent, mean kl in nats, sqnr_db = 10 log10(signal / noise).

        Agreement is 100 without any decision, for example if no image shows an object.
        """
        signal, noise = self.signal, self.noise
        return {
            "agreement": 100 * self.agreeing / self.decisions if self.decisions else 100.0,
            "kl": max(self.kl / self.distributions, 0.0),  # rounding can make it -1e-17
            "sqnr_db": 10 * math.log10(signal / noise) if signal and noise else _limit(noise),
        }


def logits_distance(reference: Tensor, quantized: Tensor) -> Distance:
    """Distance between logits [n, classes], in float64: n top-1 decisions, n distributions.

    Raises:
        ValueError: the shapes differ, or there are no images.
    """
    if reference.ndim != 2 or reference.shape != quantized.shape or not len(reference):
        raise ValueError(
            f"logits are {list(reference.shape)} (float) and {list(quantized.shape)} (quantized): "
            "both must be [n, classes] for the same n > 0 images"
        )
    f, q = reference.double(), quantized.double()
    return Distance(
        agreeing=float((f.argmax(1) == q.argmax(1)).sum()),
        decisions=len(f),
        kl=float(softmax_divergence(f, q).sum()),
        distributions=len(f),
        signal=float(f.square().sum()),
        noise=float((f - q).square().sum()),
    )


def compare(reference: Tensor, quantized: Tensor) -> dict[str, float]:
    """Fidelity of logits [n, classes] to those of the float network, on the same images in order.

    Returns:
        agreement: percentage of images with the same top-1 class.
        kl: mean over images of KL(softmax(reference) || softmax(quantized)), in nats.
        sqnr_db: 10 log10(sum reference^2 / sum (reference - quantized)^2); inf if they are equal.

    Raises:
        ValueError: the shapes differ, or there are no images.
    """
    return logits_distance(reference, quantized).figures()


def _limit(noise: float) -> float:
    return -math.inf if noise else math.inf


def paired_drop(reference_correct: Tensor, quantized_correct: Tensor) -> Drop:
    """Float minus quantized accuracy with its adjusted Wald 95 % interval for paired proportions.

    Of n images, b are correct only in the float network and c only in the quantized one. With
    p = (b + 1) / (n + 2) and r = (c + 1) / (n + 2), the interval is
    p - r -+ z sqrt((p + r - (p - r)^2) / (n + 2)), clipped to -+100 points.

    Args:
        reference_correct: [n] bool, whether the float network is correct.
        quantized_correct: [n] bool, whether the quantized network is correct.

    Raises:
        ValueError: the shapes differ, or there are no images.
    """
    n = len(reference_correct)
    if reference_correct.shape != (n,) or quantized_correct.shape != (n,) or not n:
        raise ValueError(
            f"{list(reference_correct.shape)} and {list(quantized_correct.shape)} predictions: "
            "both must be [n] for the same n > 0 images"
        )
    before, after = reference_correct.bool(), quantized_correct.bool()
    b, c = int((before & ~after).sum()), int((~before & after).sum())
    p, r = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((p + r - (p - r) ** 2) / (n + 2))
    return {
        "points": 100 * (b - c) / n,
        "ci95": [100 * max(p - r - half, -1.0), 100 * min(p - r + half, 1.0)],
    }


def softmax_divergence(reference: Tensor, quantized: Tensor) -> Tensor:
    """KL divergence between softmaxes over dimension 1: [b, classes, ...] -> [b, ...], in nats."""
    p, q = (t.log_softmax(1) for t in (reference, quantized))
    return kl_div(q, p, log_target=True, reduction="none").sum(1)
