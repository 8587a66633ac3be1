"""How well what is predicted of configurations agrees with what they really do.

Spearman's rank correlation with the KL divergence from the float network, measured on calibration
images, of every metric: over single layers, and over random configurations (predicted by the sum of
the metric's figures, or by all couplings); and of the couplings with the excess of random pairs of
changes over the two alone.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from scipy.stats import spearmanr

from pipelines.stages.precision.candidates import Candidates
from quant.mixed.sensitivity import METRICS, LayerMeasurements
from quant.mixed.space import FULL, Space


def correlations(
    candidates: Candidates, known: LayerMeasurements, count: int, seed: int
) -> dict[str, Any]:
    """Try `count` random configurations and as many pairs.

    Returns:
        single, random {metric: rho}; pairs: rho; points {metric: [[predicted, KL], ...]} of the
        random configurations, pair_points [[predicted, measured], ...].
    """
    names, widths = list(candidates.given.layers), list(candidates.widths)
    lower = [(i, j) for i in range(len(names)) for j, b in enumerate(widths) if b < FULL]
    draw = random.Random(seed)
    with candidates.given.machine.screen.bar("random configurations", len(lower) + 2 * count) as on:

        def kl(*changes: tuple[int, int]) -> float:
            on(1)
            return candidates.figures({names[i]: widths[j] for i, j in sorted(changes)})["kl"]

        alone = {change: kl(change) for change in lower}
        configs = [tuple(draw.randrange(len(widths)) for _ in names) for _ in range(count)]
        together = [kl(*enumerate(config)) for config in configs]
        pairs = [_pair(lower, draw) for _ in range(count)]
        excess = [kl(a, b) - alone[a] - alone[b] for a, b in pairs]
    A = known.couplings
    points, single = {}, {}
    for name, metric in METRICS.items():
        paired = name == "inter_layer"  # couplings say more than a layer's part of them
        found = metric(known)
        space = Space(names, widths, torch.zeros_like(found), found, A if paired else None)
        points[name] = [[space.predicted(c), k] for c, k in zip(configs, together, strict=True)]
        by_layer = [float(A[c][c]) / 2 if paired else float(found[c]) for c in lower]
        single[name] = _rho(zip(by_layer, alone.values(), strict=True))
    pair_points = [[float(A[a][b]), e] for (a, b), e in zip(pairs, excess, strict=True)]
    return {
        "count": count,
        "images": len(candidates.data.value.evaluation),
        "single": single,
        "random": {name: _rho(found) for name, found in points.items()},
        "pairs": _rho(pair_points),
        "points": points,
        "pair_points": pair_points,
    }


def _pair(
    lower: list[tuple[int, int]], draw: random.Random
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two changes of different layers."""
    first = draw.choice(lower)
    return first, draw.choice([change for change in lower if change[0] != first[0]])


def _rho(points: Any) -> float:
    return float(spearmanr(*zip(*points, strict=True)).statistic)
