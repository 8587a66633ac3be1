"""Jackknife interval for the drop of a metric that is not a mean over images, such as mean IoU.

Source: Efron & Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, chapter 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation.fidelity import Drop


def jackknife(whole: float, without: Sequence[float]) -> Drop:
    """A paired difference with its 95 % interval, from leaving out groups of images.

    With G groups of about the same size (or of one image each) and t_g the difference over all
    images except those of group g, the variance is (G - 1)/G sum_g (t_g - mean of t)^2. The
    interval is `whole` -+ the 0.975 quantile of Student's t with G - 1 degrees of freedom times the
    root of that, clipped to -+100 points. With a single group it is [-100, 100] points.

    Args:
        whole: the difference over all images, in points.
        without: the difference over all images except those of one group, for each group.

    Raises:
        ValueError: there is no group, or a difference is not finite.
    """
    G = len(without)
    if not G:
        raise ValueError("a jackknife needs at least one group of images to leave out, got none")
    alone = G == 1  # without it no image is left, so `without` may be NaN
    broken = [i for i, value in enumerate(without) if not math.isfinite(value) and not alone]
    if broken or not math.isfinite(whole):
        raise ValueError(
            f"the difference is {whole} over all images and not finite without group "
            f"{broken[:5] or 'none'}: is a metric undefined, for lack of labels?"
        )
    if alone:
        return {"points": whole, "ci95": [-100.0, 100.0]}
    from scipy.special import stdtrit  # Student's t quantile; scipy.stats is slow to import

    mean = math.fsum(without) / G
    variance = (G - 1) / G * math.fsum((value - mean) ** 2 for value in without)
    half = float(stdtrit(G - 1, 0.975)) * math.sqrt(variance)
    return {"points": whole, "ci95": [max(whole - half, -100.0), min(whole + half, 100.0)]}
