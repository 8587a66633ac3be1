"""Interval of a drop that is no mean over images, such as of a mean IoU: the jackknife.

Source: Efron & Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, chapter 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation.fidelity import Drop


def jackknife(whole: float, without: Sequence[float]) -> Drop:
    """A paired difference with its 95 % interval, from what it is when images are left out.

    With G groups of images (of one image each, or of about equally many) and t_g the difference
    over all images but those of group g, the variance is (G - 1)/G sum_g (t_g - mean of t)^2. The
    interval is `whole` -+ Student's t with G - 1 degrees of freedom times the root of that, cut
    off at -+100 points. A single group says nothing of the spread: the interval is -+100 points.

    Args:
        whole: the difference over all images, in points.
        without: the same over all images but those of one group; one for each group.

    Raises:
        ValueError: there is no group, or a difference is not finite.
    """
    G = len(without)
    if not G:
        raise ValueError("a jackknife needs at least one group of images to leave out, got none")
    alone = G == 1  # without it there is no image, and so no difference
    broken = [i for i, value in enumerate(without) if not math.isfinite(value) and not alone]
    if broken or not math.isfinite(whole):
        raise ValueError(
            f"the difference is {whole} over all images and not finite without group "
            f"{broken[:5] or 'none'}: was a metric computed over no image?"
        )
    if alone:
        return {"points": whole, "ci95": [-100.0, 100.0]}
    from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes a second

    mean = math.fsum(without) / G
    variance = (G - 1) / G * math.fsum((value - mean) ** 2 for value in without)
    half = float(stdtrit(G - 1, 0.975)) * math.sqrt(variance)
    return {"points": whole, "ci95": [max(whole - half, -100.0), min(whole + half, 100.0)]}
