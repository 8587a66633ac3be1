"""The input transform of YOLO networks: scale the long side, centre, and pad with grey bars.

As in ultralytics' validation: its dataset scales the long side, its LetterBox adds the bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

GREY = 114  # value of the bars


@dataclass(frozen=True)
class Letterbox:
    """Transforms an image to (x [3, height, width] in 0..1, place [6]).

    place = (height and width of the image; vertical and horizontal scale; height of the top bar,
    width of the left bar), used by `to_image` to map boxes back.
    """

    height: int
    width: int

    def __call__(self, image: Image.Image, label: Any) -> tuple[Tensor, Tensor]:
        pixels = np.asarray(image)
        h, w = pixels.shape[:2]
        side = max(self.height, self.width)
        scale = side / max(h, w)
        pixels = _resized(pixels, *(min(math.ceil(length * scale), side) for length in (h, w)))
        shrink = min(self.height / pixels.shape[0], self.width / pixels.shape[1], 1.0)
        new_h, new_w = (max(round(length * shrink), 1) for length in pixels.shape[:2])
        top, left = (
            round((full - length) / 2 - 0.1)
            for full, length in ((self.height, new_h), (self.width, new_w))
        )
        boxed = np.full((self.height, self.width, 3), GREY, np.uint8)
        boxed[top : top + new_h, left : left + new_w] = _resized(pixels, new_h, new_w)
        x = torch.from_numpy(boxed.transpose(2, 0, 1).copy()).float() / 255
        return x, torch.tensor([h, w, new_h / h, new_w / w, top, left], dtype=torch.float64)


def _resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bilinear without antialiasing, as YOLO networks are trained."""
    if pixels.shape[:2] == (height, width):
        return pixels
    resized: NDArray[np.uint8] = _cv2().resize(pixels, (width, height))
    return resized


@cache
def _cv2() -> Any:
    """OpenCV without threads: they would hang in forked loader processes."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def to_image(boxes: Tensor, place: Sequence[float]) -> Tensor:
    """Boxes [k, 4] x1 y1 x2 y2 in the letterboxed input -> in the image, clipped to its border."""
    h, w, scale_y, scale_x, top, left = (float(v) for v in place)
    offset = boxes.new_tensor([left, top, left, top])
    scale = boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    limit = boxes.new_tensor([w, h, w, h])
    return torch.minimum(((boxes - offset) / scale).clamp(min=0), limit)
