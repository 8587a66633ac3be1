"""YOLO's labels: one text file per image, one line per object."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from evaluation.boxes import Box, BoxFolder, Objects, clip
from evaluation.decoding import decode_upright, header_sizes
from evaluation.image_files import SUFFIXES, images_below, inside, text_lines
from evaluation.samples import Files, Samples

TOLERANCE = 1e-3
"""How far a coordinate may exceed 0..1, as files are written with few digits."""


def read(images: Path, labels: Path, names: tuple[str, ...], deep: bool = True) -> BoxFolder:
    """Index all images of a folder and read their boxes from the text files of the same names.

    An image without a text file shows no object. A line is `class cx cy w h`, or the outline
    `class x1 y1 x2 y2 x3 y3 ...`, of which the bounding box is used. All values but the class are
    fractions of the image's width and height, which are read from the file header. As in
    ultralytics, images are turned as their EXIF orientation says, and a line that is repeated is
    one object. Boxes are clipped to the image; those outside or without area are dropped and
    counted. An image with an unreadable header gets no boxes: it cannot be decoded either, and is
    reported when the images are checked.

    Args:
        images: folder of the images.
        labels: folder of the text files.
        names: class names.
        deep: look into subfolders of the images, whose labels lie in subfolders of the same name.

    Raises:
        ValueError: there are no images, or a line is invalid.
    """
    found = images_below(images, deep)
    if not found:
        raise ValueError(f"{images} holds no images ({' '.join(SUFFIXES)})")
    texts = {name: (labels / name).with_suffix(".txt") for name in found}
    return _read(images, found, texts, names)


def read_places(root: Path, places: Sequence[Path], names: tuple[str, ...]) -> BoxFolder:
    """The same for the folders of a data.yaml, and for its text files with a path on each line.

    An image's labels lie where the last folder `images` of its path is called `labels`, else
    beside the image.

    Args:
        root: folder of the data set, in which all images must lie.

    Raises:
        ValueError: as `read`; or a listed image is missing or lies outside the folder.
    """
    found: dict[str, int] = {}
    for place in places:
        if place.is_dir():
            below = images_below(place)
            prefix = _relative(place, root, place)
            found |= {os.path.normpath(f"{prefix}/{name}"): size for name, size in below.items()}
        else:
            found |= _listed(place, root)
    if not found:
        raise ValueError(f"{', '.join(map(str, places))} holds no images ({' '.join(SUFFIXES)})")
    return _read(root, found, {name: root / _labels_of(name) for name in found}, names)


def _listed(listing: Path, root: Path) -> dict[str, int]:
    """{image relative to the root: size in bytes} of a text file with a path on each line."""
    found: dict[str, int] = {}
    for number, line in enumerate(text_lines(listing), start=1):
        if not (entry := line.strip()):
            continue
        paths = [listing.parent / entry, root / entry]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ValueError(f"{listing} line {number} names {entry}, which does not exist")
        name = _relative(path, root, f"{listing} line {number}")
        found[name] = path.stat().st_size
    return found


def _relative(path: Path, root: Path, where: object) -> str:
    return inside(os.path.relpath(path, root), where)


def _labels_of(name: str) -> str:
    head, folder, rest = f"/{name}".rpartition("/images/")
    changed = f"{head}/labels/{rest}" if folder else name
    return str(Path(changed.lstrip("/")).with_suffix(".txt"))


def _read(
    root: Path, found: dict[str, int], texts: dict[str, Path], names: tuple[str, ...]
) -> BoxFolder:
    ids = sorted(found)
    objects: list[Objects] = []
    dropped = 0
    for name in ids:
        boxes = _objects(root / name, texts[name], names)
        objects.append(tuple(box for box in boxes if box))
        dropped += boxes.count(None)
    samples = Samples(
        ids=tuple(ids),
        labels=tuple(objects),
        blob=Files(root),
        decode=decode_upright,
        sizes=tuple(found[name] for name in ids),
    )
    return BoxFolder(samples, names, dropped)


def _objects(image: Path, path: Path, names: Sequence[str]) -> list[Box | None]:
    """The box of each different line; None if it lies outside the image."""
    try:
        lines = text_lines(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    rows = [
        (f"{path} line {number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    parsed = list(dict.fromkeys(_line(where, line, names) for where, line in rows))
    size = _pixels(image) if parsed else None
    if size is None:
        return []
    width, height = size
    return [
        clip(index, (x1 * width, y1 * height, x2 * width, y2 * height), size)
        for index, x1, y1, x2, y2 in parsed
    ]


def _line(where: str, line: str, names: Sequence[str]) -> tuple[int, float, float, float, float]:
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
    if label not in range(len(names)):
        raise ValueError(
            f"{where} has the class {label:g}, which is not one of 0..{len(names) - 1} "
            f"({names[0]} ... {names[-1]}): class indices start at 0. Correct the line, or the "
            "names in data.yaml (or data.names)"
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
    """Width and height of the upright image, from the file header; None if it is unreadable."""
    found = header_sizes(image)
    return None if found is None else found[1]
