"""Non-maximum suppression: of boxes of one class that overlap, the most probable one stays."""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 30_000  # of an image, at most: the most probable ones
APART = 7680.0  # pixels by which boxes of each class are moved, so that classes do not overlap


def suppressed(decoded: Tensor, confidence: float, iou: float, detections: int) -> list[Tensor]:
    """What is found on each image: [found, 6], x1 y1 x2 y2, probability, class; the best first.

    A place may hold objects of several classes. Computed in float32, with the constants that
    YOLO detectors are published with.

    Args:
        decoded: [b, 4 + classes, n], x and y of the centre, width, height, class probabilities.
        confidence: probabilities up to this one do not count.
        iou: a box that overlaps a better one of its class by more is dropped.
        detections: at most so many an image.
    """
    from torchvision.ops import nms  # seconds to import

    found = []
    for image in decoded.float():
        place, label = torch.where(confidence < image[4:].T)
        probability = image[4 + label, place]
        if len(place) > CANDIDATES:
            best = probability.argsort(descending=True)[:CANDIDATES]
            place, label, probability = place[best], label[best], probability[best]
        centre, half = image[:2, place].T, image[2:4, place].T / 2
        boxes, classes = torch.cat((centre - half, centre + half), 1), label[:, None].float()
        kept = nms(boxes + classes * APART, probability, iou)[:detections]
        found.append(torch.cat((boxes, probability[:, None], classes), 1)[kept])
    return found
