"""Class-wise non-maximum suppression, with torchvision."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_CANDIDATES = 30_000  # boxes per image that enter the suppression: the most probable ones
CLASS_OFFSET = 7680.0  # pixels between the boxes of two classes, so that they do not overlap


def non_max_suppression(
    decoded: Tensor, confidence: float, iou: float, max_detections: int
) -> list[Tensor]:
    """Detections [n, 6] of each image: x1, y1, x2, y2, probability, class; most probable first.

    A box may be detected for several classes. Computed in float32, with the constants of
    ultralytics, so that the detections are the same.

    Args:
        decoded: [b, 4 + classes, n]: centre x, centre y, width, height, class probabilities.
        confidence: detections need a probability above this one.
        iou: a box is dropped if its IoU with a more probable box of its class exceeds this value.
        max_detections: maximum number of detections per image.
    """
    from torchvision.ops import nms  # slow to import

    detections = []
    for image in decoded.float():
        place, label = torch.where(confidence < image[4:].T)
        probability = image[4 + label, place]
        if len(place) > MAX_CANDIDATES:
            best = probability.argsort(descending=True)[:MAX_CANDIDATES]
            place, label, probability = place[best], label[best], probability[best]
        centre, half = image[:2, place].T, image[2:4, place].T / 2
        boxes, classes = torch.cat((centre - half, centre + half), 1), label[:, None].float()
        kept = nms(boxes + classes * CLASS_OFFSET, probability, iou)[:max_detections]
        detections.append(torch.cat((boxes, probability[:, None], classes), 1)[kept])
    return detections
