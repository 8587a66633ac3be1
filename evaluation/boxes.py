"""Object boxes: the labels of detection data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evaluation.class_names import indices
from evaluation.samples import Samples


class Box(NamedTuple):
    """One object. Coordinates are pixels of the stored image, from its top left corner.

    The label of an image in `Samples.labels` is a tuple of these, empty if it shows no object.

    Attributes:
        class_index: 0 to classes - 1.
        x1, y1, x2, y2: left, top, right and bottom edge, inside the image; x1 < x2, y1 < y2.
        crowd: 1 for a region of many objects, which COCO's metric ignores; 0 for one object.
        area: square pixels of the object's outline if the data set has it, else of the box.
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
    """One split of a folder of images with boxes.

    Attributes:
        samples: images; their labels are `Objects`.
        names: class names.
        dropped: number of boxes skipped because they lie outside the image or have no area.
    """

    samples: Samples
    names: tuple[str, ...]
    dropped: int

    def among(self, names: Sequence[str], where: object) -> BoxFolder:
        """The same with other class names, which include its own: labels follow their names.

        Raises:
            ValueError: names a class that is not among them; `where` is the data set.
        """
        if tuple(names) == self.names:
            return self
        moved = indices(self.names, names, where)
        labels = tuple(
            tuple(box._replace(class_index=moved[box.class_index]) for box in boxes)
            for boxes in self.samples.labels
        )
        return BoxFolder(replace(self.samples, labels=labels), tuple(names), self.dropped)


def clip(
    class_index: int,
    corners: tuple[float, float, float, float],
    size: tuple[float, float],
    crowd: int = 0,
    area: float | None = None,
) -> Box | None:
    """The part of a box inside its image; None if there is none.

    Args:
        corners: x1, y1, x2, y2 in pixels.
        size: width and height of the image in pixels.
        area: square pixels; None: area of the clipped box.
    """
    width, height = size
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (corners[0], corners[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (corners[1], corners[3]))
    if x1 >= x2 or y1 >= y2:
        return None
    return Box(class_index, x1, y1, x2, y2, crowd, (x2 - x1) * (y2 - y1) if area is None else area)
