"""Mean average precision of detections as COCO defines it, computed by faster-coco-eval.

AP of a class: precision averaged over 101 recall levels, at IoU 0.50 alone or over the IoU
thresholds 0.50, 0.55 ... 0.95 ("50-95"). mAP: mean over the classes with at least one object that
is not a crowd. Only the 100 highest-scoring detections of each image and class count (maxDets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from torch import Tensor

from evaluation.boxes import Objects

MAX_DETECTIONS = 100


def average_precision(
    detections: Sequence[Tensor], truths: Sequence[Objects], classes: int
) -> dict[str, Any]:
    """Match detections to the ground truth and average the precision.

    Args:
        detections: [k, 6] per image: x1, y1, x2, y2 in pixels of the original image, score, class
            index. Any order, k = 0 is allowed; padding rows must be removed first.
        truths: ground-truth objects per image.
        classes: number of classes.

    Returns:
        map50_95, map50: percent.
        per_class: {class index: AP50-95 in percent; None if no image has such an object}.

    Raises:
        ValueError: no image has an object, the numbers of images differ, or detections have
            non-finite values, an unknown class or the wrong shape.
    """
    precision = _precision(_evaluation(detections, truths, classes))
    return {
        "map50_95": _mean(precision),
        "map50": _mean(precision[:1]),
        "per_class": {
            index: float(value) if value >= 0 else None
            for index, value in enumerate(precision.mean((0, 1)))
        },
    }


def map_without_groups(
    detections: Sequence[Tensor], truths: Sequence[Objects], classes: int, groups: int = 20
) -> list[float]:
    """mAP50-95 in percent without the images i % groups == 0, then without i % groups == 1, ...

    For a delete-a-group jackknife. Each mean is over the classes with an object in the remaining
    images. Arguments and errors as in `average_precision`. Matching is repeated for every group,
    so this takes about `groups` times as long as `average_precision`.

    Raises:
        ValueError: also if there are fewer images than groups, fewer than two groups, or all
            objects are in one group.
    """
    if not 2 <= groups <= len(truths):
        raise ValueError(f"groups={groups} must lie in 2..{len(truths)}: {len(truths)} images")
    evaluation = _evaluation(detections, truths, classes)
    figures = []
    for group in range(groups):
        evaluation.params.imgIds = [i + 1 for i in range(len(truths)) if i % groups != group]
        figures.append(_mean(_precision(evaluation)))
    return figures


def _evaluation(
    detections: Sequence[Tensor], truths: Sequence[Objects], classes: int
) -> COCOeval_faster:
    """The library's evaluator over all images, not run yet. Image ids start at 1."""
    if len(detections) != len(truths):
        raise ValueError(
            f"detections of {len(detections)} images, objects of {len(truths)}: "
            "both must cover the same images"
        )
    truth = COCO(_dataset(truths, classes), print_function=_silent)
    results = [
        {"image_id": image, "category_id": int(row[5]), "bbox": _bbox(*row[:4]), "score": row[4]}
        for image, rows in enumerate(detections, start=1)
        for row in _rows(rows, image - 1, classes)
    ]
    evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=_silent)
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # objects of any size
    evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
    return evaluation


def _precision(evaluation: COCOeval_faster) -> NDArray[np.float64]:
    """Percent [10 IoU thresholds, 101 recalls, classes]; negative for classes without objects."""
    evaluation.evaluate()
    evaluation.accumulate()
    precision: NDArray[np.float64] = 100 * np.asarray(evaluation.eval["precision"])[..., 0, 0]
    if not (precision >= 0).any():
        raise ValueError(
            f"no object in any of {len(evaluation.params.imgIds)} images (crowds aside): average "
            "precision is not defined. Use more images (data.images), or check data.root's labels"
        )
    return precision


def _mean(precision: NDArray[np.float64]) -> float:
    per_class = precision.mean((0, 1))
    return float(per_class[per_class >= 0].mean())


def _dataset(truths: Sequence[Objects], classes: int) -> dict[str, Any]:
    annotations = [
        {
            "image_id": image,
            "category_id": box.class_index,
            "bbox": _bbox(box.x1, box.y1, box.x2, box.y2),
            "iscrowd": box.crowd,
            "area": box.area,
        }
        for image, boxes in enumerate(truths, start=1)
        for box in boxes
    ]
    unknown = sorted({box.class_index for boxes in truths for box in boxes} - set(range(classes)))
    if unknown:
        raise ValueError(f"objects have the classes {unknown}, which are not in 0..{classes - 1}")
    for number, annotation in enumerate(annotations, start=1):  # id 0 would mean "unmatched"
        annotation["id"] = number
    return {
        "images": [{"id": image} for image in range(1, len(truths) + 1)],
        "categories": [{"id": index} for index in range(classes)],
        "annotations": annotations,
    }


def _bbox(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2 - x1, y2 - y1]


def _rows(detections: Tensor, image: int, classes: int) -> list[list[float]]:
    if detections.ndim != 2 or detections.shape[1] != 6:
        raise ValueError(
            f"detections of image {image} are {list(detections.shape)}: "
            "expected [k, 6] with x1, y1, x2, y2, score, class"
        )
    rows = detections.detach().double().cpu()
    if not rows.isfinite().all() or not torch.isin(rows[:, 5], torch.arange(classes)).all():
        raise ValueError(
            f"detections of image {image} have non-finite values or a class outside "
            f"0..{classes - 1}: remove padding rows, and check `classes`"
        )
    return rows.tolist()


def _silent(*_: object) -> None:
    """Swallow the library's progress messages."""
