"""Objects in images: what a data set for detection knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from evaluation.samples import Samples


class Box(NamedTuple):
    """One object. Coordinates are pixels of the image as its file holds it, from the top left.

    The label of an image in `Samples.labels` is a tuple of such rows, empty where it shows none.

    Attributes:
        class_index: 0 to classes - 1.
        x1, y1, x2, y2: left, upper, right and lower edge, inside the image; x1 < x2, y1 < y2.
        crowd: 1: a region of many objects, which COCO neither asks for nor punishes; 0: one object.
        area: square pixels, of the object's outline where the data set knows it, else of the box.
    """

    class_index: int
    x1: float
    y1: float
    x2: float
    y2: float
    crowd: int
    area: float


Objects = tuple[Box, ...]


@dataclass(frozen=True, eq=False)
class BoxFolder:
    """What one split of a folder holds.

    Attributes:
        samples: images; their labels are `Objects`.
        names: name of each class.
        dropped: boxes left out, since they lie outside of their image or have no area.
    """

    samples: Samples
    names: tuple[str, ...]
    dropped: int


def clip(
    class_index: int,
    corners: tuple[float, float, float, float],
    size: tuple[float, float],
    crowd: int = 0,
    area: float | None = None,
) -> Box | None:
    """The part of a box that lies inside its image; None where nothing of it does.

    Args:
        corners: x1, y1, x2, y2 in pixels.
        size: width and height of the image in pixels.
        area: square pixels; None: that of the clipped box.
    """
    width, height = size
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (corners[0], corners[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (corners[1], corners[3]))
    if x1 >= x2 or y1 >= y2:
        return None
    return Box(class_index, x1, y1, x2, y2, crowd, (x2 - x1) * (y2 - y1) if area is None else area)
