"""Folders of images with boxes: COCO's own layout, or YOLO's text files."""

from __future__ import annotations

from pathlib import Path

from evaluation import coco_json, yolo_labels
from evaluation.boxes import BoxFolder

# In the order of their ids; in COCO's own numbering, 1 to 90, ten numbers are not in use.
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
    """All images of one split with their boxes, none decoded.

    - COCO: `annotations/instances_<split>.json`; the images lie in `images/<split>/`, `<split>/`
      or `images/`. If there is no folder of that split, a single `instances_*.json` is its list.
    - YOLO: `images/<split>/*.jpg` with `labels/<split>/*.txt`, or both without `<split>`.

    Where both are, the JSON is read.

    Args:
        split: "val2017", say.
        annotations: the JSON, if it lies elsewhere or is named otherwise.
        names: of the classes in YOLO's text files, which hold none. A JSON has its own.

    Raises:
        ValueError: no such folder, neither layout is there, or what a file says cannot be right.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds images and their boxes")
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
        f"{folder} holds no boxes of {split}: neither annotations/instances_{split}.json (COCO) "
        f"nor images/{split}/ with labels/{split}/ (YOLO) nor images/ with labels/ is there. "
        "Is it another folder, or another split?"
    )


def _listing(folder: Path, split: str, own: bool) -> Path | None:
    """COCO's JSON of a split; `own`: the split has a folder of its own."""
    named = folder / f"instances_{split}.json"
    if named.is_file():
        return named
    found = sorted(folder.glob("instances_*.json"))
    return found[0] if len(found) == 1 and not own else None
