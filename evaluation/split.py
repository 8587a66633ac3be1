"""Which images calibrate and which evaluate: none does both."""

from __future__ import annotations

from collections import Counter

from evaluation.samples import Samples, choose


def split(
    pool: Samples, evaluation: Samples, count: int | None, most: int, seed: int
) -> tuple[Samples, Samples]:
    """(images to calibrate on, images to evaluate on).

    Where no number is given, calibration takes what there is, up to `most`. Of the evaluation
    images it then takes at most half: a folder of 20 gives 10 to calibrate and 10 to evaluate on.

    Args:
        pool: what may calibrate.
        evaluation: what may evaluate; may be the same images, or some of them.
        count: how many calibrate; None: see above.
        most: of those, where no number is given.
        seed: decides which; fewer images with the same seed are the first ones of more.

    Raises:
        ValueError: the pool has fewer than `count`.
    """
    calibration = choose(pool, min(most, len(pool)) if count is None else count, seed)
    left = evaluation.without(calibration)
    taken = len(evaluation) - len(left)
    if count is None and taken > spared(len(evaluation), len(evaluation)):
        calibration = _taking(calibration, evaluation, spared(len(evaluation), len(evaluation)))
        left = evaluation.without(calibration)
    return calibration, left


def spared(total: int, most: int) -> int:
    """How many images of `total` may be put to another use: up to `most`, and at most half."""
    return min(most, total // 2)


def _taking(calibration: Samples, evaluation: Samples, most: int) -> Samples:
    """The first calibration images, which take at most so many evaluation images away."""
    copies = Counter(map(evaluation.digest, evaluation.ids))
    digests = list(map(calibration.digest, calibration.ids))
    kept = taken = 0
    for digest in digests:
        taken += copies.pop(digest, 0)
        if taken > most:
            break
        kept += 1
    return calibration.take(range(kept))
