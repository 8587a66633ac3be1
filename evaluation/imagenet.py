"""ImageNet and other image folders: one folder per class, or `images/` with `labels.txt`."""

import os
import re
from pathlib import Path

from evaluation.classification import ClassificationData
from evaluation.samples import Files, Samples, decode_file, part

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")

# Usual names of the subfolders of a data set.
EVALUATION_FOLDERS = ("val", "imagenet_val700")
CALIBRATION_FOLDERS = ("train", "imagenet_train1000")


class ImageNet(ClassificationData):
    """Images of `classes` classes in a folder with one of two layouts.

    - `<class>/<image>`: the class index is the rank of the sorted folder names. If classes=1000 and
      all folders are named after ImageNet-1k synsets, it is the synset's index, so a subset of the
      folders is enough.
    - `images/<image>` and `labels.txt` with a line `<image> <label>` per image, labels from 0.

    `root` and `calibration_root` are such folders, or contain them as `val` and `train`.
    Calibration images come from the `train` folder of `calibration_root` (null: of `root`), or from
    its evaluation images if there is none.
    """

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        classes: int,
    ) -> None:
        super().__init__(root, calibration_root, batch_size, workers, skip_bad, images)
        if classes < 2:
            raise ValueError(f"data.classes={classes} must be at least 2")
        self.classes = classes

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: point it to the folder of images, "
                "data.root=/path/to/imagenet (or set the environment variable OBLIQ_DATA)"
            )
        root = Path(self.root).expanduser()
        calibration = Path(self.calibration_root or root).expanduser()
        evaluation_folder = part(root, EVALUATION_FOLDERS)
        calibration_folder = part(calibration, CALIBRATION_FOLDERS + EVALUATION_FOLDERS)
        evaluation = index(evaluation_folder, self.classes)
        if calibration_folder == evaluation_folder:
            return evaluation, evaluation
        return index(calibration_folder, self.classes), evaluation


def index(folder: Path, classes: int) -> Samples:
    """Index all images of a folder with their labels; no image is opened.

    Raises:
        ValueError: the folder does not exist, has neither layout or no image, or `labels.txt` does
            not match the files.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: use one with images")
    if (folder / "labels.txt").is_file():
        sizes, labels = _flat(folder)
    else:
        sizes, labels = _class_folders(folder, classes)
    if not sizes:
        raise ValueError(f"{folder} holds no images ({' '.join(SUFFIXES)})")
    ids = sorted(sizes)
    return Samples(
        ids=tuple(ids),
        labels=tuple(labels[name] for name in ids),
        blob=Files(folder),
        decode=decode_file,
        sizes=tuple(sizes[name] for name in ids),
    )


def _scan(folder: Path, prefix: str) -> dict[str, int]:
    """{prefix/name: size in bytes} of the image files of one folder."""
    with os.scandir(folder) as entries:
        return {
            f"{prefix}/{entry.name}": entry.stat().st_size
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        }


def _class_folders(folder: Path, classes: int) -> tuple[dict[str, int], dict[str, int]]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names or names == ["images"]:
        raise ValueError(
            f"{folder} has neither one folder per class nor images/ with labels.txt: the images "
            "have no labels. Use one of these two layouts"
        )
    sizes: dict[str, int] = {}
    labels: dict[str, int] = {}
    for name, label in zip(names, _class_indices(folder, names, classes), strict=True):
        found = _scan(folder / name, name)
        sizes |= found
        labels |= dict.fromkeys(found, label)
    return sizes, labels


def _class_indices(folder: Path, names: list[str], classes: int) -> list[int]:
    if len(names) == classes:
        return list(range(classes))
    if classes == 1000:
        from timm.data import ImageNetInfo  # slow to import

        synsets = {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
        if all(name in synsets for name in names):
            return [synsets[name] for name in names]
    raise ValueError(
        f"{folder} has {len(names)} class folders ({', '.join(names[:3])} ...) but "
        f"data.classes={classes}: the class index is the rank of the sorted folder names, so "
        f"labels would be wrong. Set data.classes={len(names)} if the network has as many "
        "classes, or add a folder (it may be empty) for each missing class"
    )


def _flat(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    if not (folder / "images").is_dir():
        raise ValueError(f"{folder} has labels.txt but no folder images/ next to it: add it")
    sizes = _scan(folder / "images", "images")
    labels = _read_labels(folder / "labels.txt")
    absent = sorted(labels.keys() - sizes.keys())
    unlisted = sorted(sizes.keys() - labels.keys())
    for names, problem in ((absent, "lists missing files"), (unlisted, "does not list")):
        if names:
            raise ValueError(
                f"{folder / 'labels.txt'} {problem}: {', '.join(names[:5])}"
                f"{' ...' if len(names) > 5 else ''} ({len(names)} in total). "
                "Each file in images/ needs one line `file label`"
            )
    return sizes, labels


def _read_labels(path: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, label = [*line.rsplit(None, 1), ""][:2]
        if not re.fullmatch(r"-?\d+", label):
            raise ValueError(f"{path} line {number} is {line!r}: expected `file label`")
        key = f"images/{name.strip()}"
        if key in labels:
            raise ValueError(f"{path} line {number} lists {name.strip()} twice")
        labels[key] = int(label)
    return labels
