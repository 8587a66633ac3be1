"""YOLO's labels: one text file per image, one line per object."""

from __future__ import annotations

import math
import os
from pathlib import Path

from evaluation.boxes import Box, BoxFolder, Objects, clip
from evaluation.imagenet import SUFFIXES
from evaluation.decoding import decode_file, open_image
from evaluation.samples import Files, Samples

TOLERANCE = 1e-3
"""How far a coordinate may exceed 0..1, as files are written with few digits."""


def read(images: Path, labels: Path, names: tuple[str, ...]) -> BoxFolder:
    """Index all images of a folder and read their boxes from the text files of the same names.

    An image without a text file shows no object. A line is `class cx cy w h`, or the outline
    `class x1 y1 x2 y2 x3 y3 ...`, of which the bounding box is used. All values but the class are
    fractions of the image's width and height, which are read from the file header. As in decoding,
    the EXIF orientation is not applied; it does not matter for COCO. Boxes are clipped to the
    image; those outside or without area are dropped and counted. An image with an unreadable header
    gets no boxes: it cannot be decoded either, and is reported when the images are checked.

    Args:
        images: folder of the images.
        labels: folder of the text files.
        names: class names.

    Raises:
        ValueError: there are no images, or a line is invalid.
    """
    with os.scandir(images) as entries:
        sizes = {
            entry.name: entry.stat().st_size
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        }
    if not sizes:
        raise ValueError(f"{images} holds no images ({' '.join(SUFFIXES)})")
    ids = sorted(sizes)
    objects: list[Objects] = []
    dropped = 0
    for name in ids:
        boxes = _objects(images / name, labels / f"{Path(name).stem}.txt", len(names))
        objects.append(tuple(box for box in boxes if box))
        dropped += boxes.count(None)
    samples = Samples(
        ids=tuple(ids),
        labels=tuple(objects),
        blob=Files(images),
        decode=decode_file,
        sizes=tuple(sizes[name] for name in ids),
    )
    return BoxFolder(samples, names, dropped)


def _objects(image: Path, path: Path, classes: int) -> list[Box | None]:
    """The box of each line; None if it lies outside the image."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = [
        (f"{path} line {number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    parsed = [_line(where, line, classes) for where, line in rows]
    size = _pixels(image) if parsed else None
    if size is None:
        return []
    width, height = size
    return [
        clip(index, (x1 * width, y1 * height, x2 * width, y2 * height), size)
        for index, x1, y1, x2, y2 in parsed
    ]


def _line(where: str, line: str, classes: int) -> tuple[int, float, float, float, float]:
    """(class index, x1, y1, x2, y2), all but the class as fractions of the image."""
    try:
        label, *numbers = [float(word) for word in line.split()]
    except ValueError:
        label, numbers = math.nan, []
    if not (len(numbers) == 4 or (len(numbers) >= 6 and len(numbers) % 2 == 0)):
        raise ValueError(
            f"{where} is {line[:60]!r}: expected `class cx cy w h`, "
            "or `class` and at least three points `x y`"
        )
    if label not in range(classes):
        raise ValueError(
            f"{where} has the class {label:g}, which is not one of 0..{classes - 1}: class "
            "indices start at 0. For data sets other than COCO, use a COCO JSON, which has names"
        )
    if not all(-TOLERANCE <= number <= 1 + TOLERANCE for number in numbers):
        raise ValueError(
            f"{where} is {line[:60]!r}: all values but the class must lie in 0..1, "
            "as fractions of the image's width and height. Are these pixels?"
        )
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        return int(label), cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    x, y = numbers[::2], numbers[1::2]
    return int(label), min(x), min(y), max(x), max(y)


def _pixels(image: Path) -> tuple[int, int] | None:
    """Width and height from the file header; None if it is unreadable."""
    try:
        with open_image(image) as header:
            return header.size
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever the damage leads to
        return None
