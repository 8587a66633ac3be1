"""Labels of boxes on a picture: where they cover neither each other nor small boxes.

Boxes and labels are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]
SMALL = 3  # areas of its label: smaller boxes are not covered by labels of others where avoidable
WAY = 4  # heights that a label goes out of the way of a small box


def places(
    boxes: Sequence[Box], sizes: Sequence[tuple[int, int]], width: int, height: int
) -> list[Box | None]:
    """A place inside the picture for every label, the first ones nearest to their boxes.

    Args:
        boxes: what is labelled, the most important ones first.
        sizes: (width, height) of the labels; they fit into the picture.
        width, height: of the picture.

    Returns:
        labels that do not overlap; None where there is no room left for another one.
    """
    placed: list[Box | None] = []
    for number, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        small = [
            other
            for i, other in enumerate(boxes)
            if i != number and _area(other) < SMALL * size[0] * size[1]
        ]
        best, least = None, float("inf")
        for away, spot in _spots(box, size, width, height):
            if away >= least:
                break  # what is still to come is farther away
            if any(overlap(spot, label) for label in placed if label):
                continue
            cost = away + WAY * sum(overlap(spot, other) for other in small)
            if cost < least:
                best, least = spot, cost
        placed.append(best)
    return placed


def overlap(one: Box, other: Box) -> bool:
    """Whether they share more than an edge."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _spots(box: Box, size: tuple[int, int], width: int, height: int) -> Iterator[tuple[int, Box]]:
    """(how far away from the box, place) inside the picture, the nearest ones first.

    Distance is in heights of the label, and halves of its width.
    """
    w, h = size
    x1, y1, x2, y2 = box
    for away in range(2 + height // h + 2 * width // w):
        for across in range(away + 1):
            down = away - across
            side = across * w / 2
            lefts = (x1 - side, x1 + side) if across else (x1, x2 - w, x1 - w, x2)
            tops = (y1 - (down + 1) * h, y1 + down * h, y2 + down * h)
            for top in tops:
                for left in lefts:
                    x, y = _within(left, width - w), _within(top, height - h)
                    yield away, (x, y, x + w, y + h)


def _within(value: float, most: int) -> int:
    return max(0, min(round(value), most))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
