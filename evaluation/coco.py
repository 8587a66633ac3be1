"""COCO, and other detection data sets in COCO's or YOLO's layout."""

from __future__ import annotations

from pathlib import Path

from evaluation.boxes import BoxFolder
from evaluation.coco_folder import read
from evaluation.detection import DetectionData
from evaluation.samples import Samples

EVALUATION, CALIBRATION = ("val2017", "val"), ("train2017", "train")


class Coco(DetectionData):
    """Images with object boxes.

    `root` and `calibration_root` are folders that evaluation/coco_folder.py can read, or have such
    a subfolder `coco`. Evaluation uses the split val2017 (or val) of `root`. Calibration uses
    train2017 (or train) of `calibration_root` (null: of `root`), or val2017 if there is none.

    Attributes:
        dropped: number of evaluation boxes skipped because they lie outside their image.
    """

    dropped: int = 0

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: point it to the folder with images/ and annotations/ (COCO) "
                "or labels/ (YOLO), data.root=/path/to/coco (or set the environment variable "
                "OBLIQ_DATA)"
            )
        root = _folder(self.root)
        evaluation = read(root, _split(root, EVALUATION))
        self.names, self.dropped = evaluation.names, evaluation.dropped
        calibration = self._calibration(root, evaluation)
        if calibration.names != evaluation.names:
            raise ValueError(
                f"the calibration images have {len(calibration.names)} classes and the evaluation "
                f"images {len(evaluation.names)}, or in another order: use the same data set for "
                "data.root and data.calibration_root"
            )
        return calibration.samples, evaluation.samples

    def _calibration(self, root: Path, evaluation: BoxFolder) -> BoxFolder:
        folder = _folder(self.calibration_root) if self.calibration_root else root
        split = _split(folder, CALIBRATION + EVALUATION)
        same = folder == root and split == _split(root, EVALUATION)
        return evaluation if same else read(folder, split)


def _folder(root: str) -> Path:
    path = Path(root).expanduser()
    return path / "coco" if (path / "coco").is_dir() else path


def _split(folder: Path, names: tuple[str, ...]) -> str:
    """The first split that has an image folder or an annotation file; else the first name."""
    for name in names:
        places = [folder / "images" / name, folder / name]
        places += [folder / "annotations" / f"instances_{name}.json"]
        if any(place.exists() for place in places):
            return name
    return names[0]
