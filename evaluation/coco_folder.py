"""Folders of images with boxes, in COCO's JSON layout or with YOLO's text files."""

from __future__ import annotations

from pathlib import Path

from evaluation import coco_json, yolo_labels
from evaluation.boxes import BoxFolder

# Ordered by COCO's category ids, which run from 1 to 90 with ten of them unused.
COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)


def read(
    folder: Path,
    split: str,
    annotations: Path | None = None,
    names: tuple[str, ...] = COCO_NAMES,
) -> BoxFolder:
    """Index all images of one split and read their boxes; no image is decoded.

    - COCO: `annotations/instances_<split>.json`; the images are in `images/<split>/`, `<split>/`
      or `images/`. If the split has no folder, the only `instances_*.json` is used.
    - YOLO: `images/<split>/*.jpg` with `labels/<split>/*.txt`, or both without `<split>`.

    The JSON takes precedence.

    Args:
        split: for example "val2017".
        annotations: path of the JSON, if it is elsewhere or has another name.
        names: class names for YOLO's text files, which contain none. A JSON has its own.

    Raises:
        ValueError: the folder does not exist, has neither layout, or a file has invalid content.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: use one with images and their boxes")
    pictures = [folder / "images" / split, folder / split]
    own = any(place.is_dir() for place in pictures)
    listing = annotations or _listing(folder / "annotations", split, own)
    if listing:
        return coco_json.read(listing, [*pictures, folder / "images", folder])
    for inner in (split, "."):
        images, labels = folder / "images" / inner, folder / "labels" / inner
        if images.is_dir() and labels.is_dir():
            return yolo_labels.read(images, labels, names)
    raise ValueError(
        f"{folder} has no boxes for {split}: neither annotations/instances_{split}.json (COCO) "
        f"nor images/{split}/ with labels/{split}/ (YOLO) nor images/ with labels/ exists. "
        "Check the folder and the name of the split"
    )


def _listing(folder: Path, split: str, own: bool) -> Path | None:
    """COCO's JSON of a split, if any; `own`: the split has its own image folder."""
    named = folder / f"instances_{split}.json"
    if named.is_file():
        return named
    found = sorted(folder.glob("instances_*.json"))
    return found[0] if len(found) == 1 and not own else None
