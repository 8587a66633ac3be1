"""COCO, and other detection data sets in COCO's or YOLO's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation import coco_folder, yolo_labels, yolo_yaml
from evaluation.boxes import BoxFolder
from evaluation.detection import DetectionData
from evaluation.samples import Samples

EVALUATION, CALIBRATION = ("val2017", "val"), ("train2017", "train")


class Coco(DetectionData):
    """Images with object boxes.

    `root` and `calibration_root` are folders that evaluation/coco_folder.py can read, or have such
    a subfolder `coco`; or a data.yaml of ultralytics, or a folder with one. Evaluation uses the
    split val2017 (or val) of `root`. Calibration uses train2017 (or train) of `calibration_root`
    (null: of `root`), or val2017 if there is none.

    Labels follow the class names: those of the JSON or the data.yaml among those that the network
    carries. Where the network carries none, the number of a class is its rank in the data set.

    Attributes:
        given_names: names of the data set's classes in the order of their numbers (of a JSON: of
            its category ids), in place of those that the data set gives; null: none.
        dropped: number of evaluation boxes skipped because they lie outside their image.
    """

    dropped: int = 0

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        confidence: float,
        iou: float,
        max_detections: int,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            root,
            calibration_root,
            batch_size,
            workers,
            skip_bad,
            images,
            confidence,
            iou,
            max_detections,
        )
        self.given_names = None if names is None else tuple(map(str, names))

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: point it to the folder with images/ and annotations/ (COCO) "
                "or labels/ (YOLO), or to a data.yaml, data.root=/path/to/coco (or set the "
                "environment variable OBLIQ_DATA)"
            )
        root = _folder(self.root)
        folder = _folder(self.calibration_root) if self.calibration_root else root
        evaluation = self._read(root, EVALUATION)
        calibration = evaluation
        if folder != root or _split(folder, CALIBRATION + EVALUATION) != _split(root, EVALUATION):
            calibration = self._read(folder, CALIBRATION + EVALUATION)
        names = self.network_names or evaluation.names
        evaluation = evaluation.among(names, root)
        if not self.network_names and len(calibration.names) != len(names):
            raise ValueError(
                f"the calibration images have {len(calibration.names)} classes and the evaluation "
                f"images {len(names)}: use the same data set for data.root and "
                "data.calibration_root"
            )
        calibration = calibration.among(names, folder)
        self.names, self.dropped = evaluation.names, evaluation.dropped
        return calibration.samples, evaluation.samples

    def _read(self, root: Path, splits: Sequence[str]) -> BoxFolder:
        """The boxes of the first of these splits that there is."""
        split, listing = _split(root, splits), _listing(root)
        if listing is None:
            return coco_folder.read(root, split, names=self.given_names)
        found = yolo_yaml.load(listing)
        names = self.given_names or found.names
        if not names:
            raise ValueError(
                f"{listing} has no `names` for its classes: add them, or set data.names"
            )
        if split not in found.places:
            raise ValueError(f"{listing} has no `{split}:` images: add their folder")
        return yolo_labels.read_places(found.root, found.places[split], names)


def _listing(root: Path) -> Path | None:
    """The data.yaml, if it describes the data set; COCO's JSON takes precedence."""
    return None if coco_folder.has_json(root) else yolo_yaml.find(root)


def _folder(root: str) -> Path:
    path = Path(root).expanduser()
    return path / "coco" if (path / "coco").is_dir() else path


def _split(root: Path, names: Sequence[str]) -> str:
    """The first split that has images or an annotation file; else the first name.

    In a data.yaml, splits are called val and train.
    """
    if listing := _listing(root):
        there = yolo_yaml.load(listing).places
        return next((name for name in names if name in there), "val")
    for name in names:
        places = [root / "images" / name, root / name]
        places += [root / "annotations" / f"instances_{name}.json"]
        if any(place.exists() for place in places):
            return name
    return names[0]
