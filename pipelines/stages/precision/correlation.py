"""Correlation of the sensitivity metrics' predictions with measured KL divergences.

Spearman's rank correlation of every metric with the KL divergence from the float network on
calibration images: over single layers, and over random configurations (predicted by the sum of the
metric over layers, or by all couplings). Also of the couplings with the excess KL of random pairs
of perturbations over the two single ones.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from pipelines.stages.precision.candidates import Candidates
from quant.mixed.sensitivity import METRICS, LayerMeasurements
from quant.mixed.space import FULL, Space


def correlations(
    candidates: Candidates, measured: LayerMeasurements, count: int, seed: int
) -> dict[str, Any]:
    """Evaluate `count` random configurations and as many random pairs.

    Returns:
        single, random {metric: rho}; pairs: rho; points {metric: [[predicted, KL], ...]} of the
        random configurations, pair_points [[predicted, measured], ...].
    """
    names, widths = list(candidates.context.layers), list(candidates.widths)
    lower = [(i, j) for i in range(len(names)) for j, b in enumerate(widths) if b < FULL]
    draw = random.Random(seed)
    screen, total = candidates.context.machine.screen, len(lower) + 2 * count
    with screen.bar("random configurations", total) as advance:

        def kl(*choices: tuple[int, int]) -> float:
            advance(1)
            return candidates.figures({names[i]: widths[j] for i, j in sorted(choices)})["kl"]

        alone = {choice: kl(choice) for choice in lower}
        configs = [tuple(draw.randrange(len(widths)) for _ in names) for _ in range(count)]
        joint = [kl(*enumerate(config)) for config in configs]
        pairs = [_pair(lower, draw) for _ in range(count)]
        excess = [kl(a, b) - alone[a] - alone[b] for a, b in pairs]
    A = measured.couplings
    points, single = {}, {}
    for name, metric in METRICS.items():
        paired = name == "inter_layer"  # predicts by all couplings, not by their sum per layer
        scores = metric(measured)
        space = Space(names, widths, torch.zeros_like(scores), scores, A if paired else None)
        points[name] = [[space.predicted(c), k] for c, k in zip(configs, joint, strict=True)]
        by_layer = [float(A[c][c]) / 2 if paired else float(scores[c]) for c in lower]
        single[name] = _rho(zip(by_layer, alone.values(), strict=True))
    pair_points = [[float(A[a][b]), e] for (a, b), e in zip(pairs, excess, strict=True)]
    return {
        "count": count,
        "images": len(candidates.data.value.evaluation),
        "single": single,
        "random": {name: _rho(predictions) for name, predictions in points.items()},
        "pairs": _rho(pair_points),
        "points": points,
        "pair_points": pair_points,
    }


def _pair(
    lower: list[tuple[int, int]], draw: random.Random
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two (layer, width) choices of different layers."""
    first = draw.choice(lower)
    return first, draw.choice([choice for choice in lower if choice[0] != first[0]])


def _rho(points: Any) -> float:
    from scipy.stats import spearmanr  # slow to import

    return float(spearmanr(*zip(*points, strict=True)).statistic)
