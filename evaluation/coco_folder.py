"""Folders of images with boxes, in COCO's JSON layout or with YOLO's text files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from evaluation import coco_json, yolo_labels
from evaluation.boxes import BoxFolder
from evaluation.coco_names import COCO_NAMES
from evaluation.image_files import images_below


def read(
    folder: Path,
    split: str,
    annotations: Path | None = None,
    names: Sequence[str] | None = None,
) -> BoxFolder:
    """Index all images of one split and read their boxes; no image is decoded.

    - COCO: `annotations/instances_<split>.json`; the images are in `images/<split>/`, `<split>/`
      or `images/`. If the split has no folder, the only `instances_*.json` is used.
    - YOLO: `images/<split>/*.jpg` with `labels/<split>/*.txt`, or both without `<split>`.

    The JSON takes precedence.

    Args:
        split: for example "val2017".
        annotations: path of the JSON, if it is elsewhere or has another name.
        names: class names by their number, in place of those of the folder. YOLO's text files have
            none: without a data.yaml (see evaluation/yolo_yaml.py) they are needed, unless the
            images are COCO's own.

    Raises:
        ValueError: the folder does not exist, has neither layout, a file has invalid content, or
            there are no names.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: use one with images and their boxes")
    pictures = [folder / "images" / split, folder / split]
    own = any(place.is_dir() for place in pictures)
    listing = annotations or _listing(folder / "annotations", split, own)
    if listing:
        return coco_json.read(listing, [*pictures, folder / "images", folder], names)
    for inner in (split, "."):
        images, labels = folder / "images" / inner, folder / "labels" / inner
        if images.is_dir() and labels.is_dir():
            known = tuple(names or _names(images))
            return yolo_labels.read(images, labels, known, deep=inner == split)
    raise ValueError(
        f"{folder} has no boxes for {split}: neither annotations/instances_{split}.json (COCO) "
        f"nor images/{split}/ with labels/{split}/ (YOLO) nor images/ with labels/ nor a data.yaml "
        "exists. Check the folder and the name of the split"
    )


def has_json(folder: Path) -> bool:
    """Whether the folder has COCO's layout."""
    return any((folder / "annotations").glob("instances_*.json"))


def _names(images: Path) -> tuple[str, ...]:
    """COCO's names, if these are its own images: their names are their numbers, of 12 digits."""
    found = images_below(images)
    if all(re.fullmatch(r"\d{12}\.jpg", name) for name in found):
        return COCO_NAMES
    raise ValueError(
        f"{images} and its labels have numbers for classes, but no names: add a data.yaml with "
        "`names` (and `train`, `val`) to the data set's folder, or give them in the order of the "
        "numbers, data.names=[FIRST,SECOND,...]"
    )


def _listing(folder: Path, split: str, own: bool) -> Path | None:
    """COCO's JSON of a split, if any; `own`: the split has its own image folder."""
    named = folder / f"instances_{split}.json"
    if named.is_file():
        return named
    found = sorted(folder.glob("instances_*.json"))
    return found[0] if len(found) == 1 and not own else None
