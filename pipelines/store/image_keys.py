"""Images as inputs of stages: keyed by their content, their data set's settings and its code."""

from __future__ import annotations

from evaluation.images import ImageData
from pipelines.store import fingerprint
from pipelines.store.artifacts import Keyed


def calibration(data: ImageData) -> Keyed[ImageData]:
    """The calibration images of a data set."""
    told = fingerprint.content(data.described(evaluating=False))
    return Keyed(data, f"{data.calibration_key} {told}")


def evaluation(data: ImageData) -> Keyed[ImageData]:
    """The evaluation images of a data set."""
    told = fingerprint.content(data.described(evaluating=True))
    return Keyed(data, f"{data.evaluation_key} {told}")
