"""How well what is predicted of configurations agrees with what they really do.

Spearman's rank correlation with the KL divergence from the float network, measured on calibration
images, of every metric: over single layers, and over random configurations (predicted by the sum of
the metric's figures, or by all couplings); and of the couplings with the excess of random pairs of
changes over the two alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor

from pipelines.stages.candidates import Candidates

FULL = 16  # bits from which a layer counts as unchanged


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is thought of the layers at all widths.

    Attributes:
        sensitivity: [N, B] by metric.
        couplings: A [N, B, N, B].
    """

    sensitivity: Mapping[str, Tensor]
    couplings: Tensor


def correlations(
    candidates: Candidates, predicted: Predictions, count: int, seed: int
) -> dict[str, Any]:
    """Try `count` random configurations and as many pairs.

    Returns:
        single, random {metric: rho}; pairs: rho; points {metric: [[predicted, KL], ...]} of the
        random configurations, pair_points [[predicted, measured], ...].
    """
    names, widths = list(candidates.given.layers), list(candidates.widths)
    lower = [(i, j) for i in range(len(names)) for j, b in enumerate(widths) if b < FULL]
    draw = random.Random(seed)

    def kl(changed: Mapping[int, int]) -> float:
        return candidates.figures({names[i]: widths[j] for i, j in sorted(changed.items())})["kl"]

    with candidates.given.machine.screen.bar("random configurations", len(lower) + 2 * count) as on:

        def counted(changed: Mapping[int, int]) -> float:
            on(1)
            return kl(changed)

        alone = {change: counted(dict([change])) for change in lower}
        configs = [
            {i: draw.randrange(len(widths)) for i in range(len(names))} for _ in range(count)
        ]
        together = [counted(config) for config in configs]
        pairs = [_pair(lower, draw) for _ in range(count)]
        excess = [counted(dict(pair)) - alone[pair[0]] - alone[pair[1]] for pair in pairs]
    points = {
        name: [
            [float(sum(s[i, j] for i, j in c.items())), k]
            for c, k in zip(configs, together, strict=True)
        ]
        for name, s in predicted.sensitivity.items()
    }
    A = predicted.couplings
    points["inter_layer"] = [
        [float(sum(A[i, j, k, m] for i, j in c.items() for k, m in c.items()) / 2), value]
        for c, value in zip(configs, together, strict=True)
    ]
    pair_points = [[float(A[a][b]), e] for (a, b), e in zip(pairs, excess, strict=True)]
    single = {
        name: _rho([(float(s[change]), alone[change]) for change in lower])
        for name, s in predicted.sensitivity.items()
    }
    single["inter_layer"] = _rho([(float(A[c][c]) / 2, alone[c]) for c in lower])
    return {
        "count": count,
        "images": len(candidates.data.value.evaluation),
        "single": single,
        "random": {name: _rho(found) for name, found in points.items()},
        "pairs": _rho(pair_points),
        "points": points,
        "pair_points": pair_points,
    }


def _pair(lower: list[tuple[int, int]], draw: random.Random) -> tuple[tuple[int, int], ...]:
    """Two changes of different layers."""
    first = draw.choice(lower)
    return first, draw.choice([change for change in lower if change[0] != first[0]])


def _rho(points: Any) -> float:
    return float(spearmanr(*zip(*points, strict=True)).statistic)
