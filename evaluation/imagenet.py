"""ImageNet and other image folders: one folder per class, or `images/` with `labels.txt`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from evaluation.class_folders import ORDERS, class_folders, labels_of
from evaluation.classification import ClassificationData
from evaluation.decoding import decode_file
from evaluation.image_files import SUFFIXES, Spellings, images_below, text_lines
from evaluation.samples import Files, Samples, part

# Usual names of the subfolders of a data set.
EVALUATION_FOLDERS = ("val", "imagenet_val700", "valid", "validation", "test")
CALIBRATION_FOLDERS = ("train", "imagenet_train1000", "training")
LIST = "labels.txt"


class ImageNet(ClassificationData):
    """Images in a folder with one of two layouts.

    - `<class>/<image>`, or `<class>/<folder>/<image>`: see evaluation/class_folders.py for which
      class a folder stands for.
    - `images/<image>` and `labels.txt` with a line `<image> <label>` per image, labels from 0.

    `root` and `calibration_root` are such folders, or contain them as `val` (or valid, validation,
    test) and `train`. Calibration images come from the `train` folder of `calibration_root` (null:
    of `root`), or from its evaluation images if there is none.

    Attributes:
        classes: number of the network's outputs; 0 where it was not given and is not known yet.
        class_names: of the network's outputs, in their order, to match folders to; null: those
            that the network carries.
        class_order: how class folders without such names are numbered, "text" (torchvision) or
            "natural" (timm); null: where the two differ, it is an error.
    """

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        classes: int | None,
        names: Sequence[str] | None = None,
        class_order: str | None = None,
    ) -> None:
        super().__init__(root, calibration_root, batch_size, workers, skip_bad, images)
        if classes is not None and classes < 2:
            raise ValueError(f"data.classes={classes} must be at least 2")
        if class_order not in (None, *ORDERS):
            raise ValueError(
                f"data.class_order={class_order} must be {' or '.join(ORDERS)}, or null"
            )
        self.class_names = None if names is None else tuple(map(str, names))
        self.classes = classes or len(self.class_names or ())
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(
                f"data.names has {len(self.class_names)} names, but data.classes={self.classes}"
            )
        self.class_order = class_order

    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        super().check_network(network, name, example)
        if not self.classes:
            self.classes = network(example).shape[1]

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
        folders = list(dict.fromkeys((evaluation_folder, calibration_folder)))
        by_class = [f for f in folders if f.is_dir() and not (f / LIST).is_file()]
        every = sorted({name for folder in by_class for name in class_folders(folder)})
        names = self.network_names if self.class_names is None else self.class_names
        found = {
            folder: index(folder, self.classes or None, names, self.class_order, every)
            for folder in folders
        }
        if not self.classes:
            used = [label for samples in found.values() for label in samples.labels]
            self.classes = max(len(every), len(names), max(used) + 1, 2)
        if by_class and self.class_order is None:
            self.names = self._names(by_class[0], every, names)
        return found[calibration_folder], found[evaluation_folder]

    def _names(self, folder: Path, every: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        """Class names by label, where every class has a folder that is called by its name."""
        labels = labels_of(folder, every, self.classes, names)
        if len(labels) < self.classes or all(name.isdigit() for name in every):
            return ()
        return sorted(labels, key=labels.__getitem__)


def index(
    folder: Path,
    classes: int | None,
    names: Sequence[str] = (),
    order: str | None = None,
    every: Sequence[str] | None = None,
) -> Samples:
    """Index all images of a folder with their labels; no image is opened.

    Args:
        classes, names, order: see `labels_of` in evaluation/class_folders.py.
        every: folders of all classes, of which this folder may lack some; None: those in it.

    Raises:
        ValueError: the folder does not exist, has neither layout or no image, or `labels.txt` does
            not match the files.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: use one with images")
    if (folder / LIST).is_file():
        sizes, by_image = _flat(folder)
    else:
        there = class_folders(folder)
        labels = labels_of(folder, every or there, classes, names, order)
        sizes, by_image = _class_folders(folder, {name: labels[name] for name in there})
    if not sizes:
        raise ValueError(f"{folder} holds no images ({' '.join(SUFFIXES)})")
    ids = sorted(sizes)
    return Samples(
        ids=tuple(ids),
        labels=tuple(by_image[name] for name in ids),
        blob=Files(folder),
        decode=decode_file,
        sizes=tuple(sizes[name] for name in ids),
    )


def _class_folders(folder: Path, labels: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """({image: size in bytes}, {image: label}) of the images in folders of classes."""
    sizes: dict[str, int] = {}
    by_image: dict[str, int] = {}
    for name, label in labels.items():
        found = {f"{name}/{image}": size for image, size in images_below(folder / name).items()}
        sizes |= found
        by_image |= dict.fromkeys(found, label)
    return sizes, by_image


def _flat(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The same of the images that `labels.txt` lists."""
    if not (folder / "images").is_dir():
        raise ValueError(f"{folder} has labels.txt but no folder images/ next to it: add it")
    below = images_below(folder / "images")
    sizes = {f"images/{image}": size for image, size in below.items()}
    labels = _read_labels(folder / LIST, Spellings(sizes))
    absent = sorted(labels.keys() - sizes.keys())
    unlisted = sorted(sizes.keys() - labels.keys())
    for names, problem in ((absent, "lists missing files"), (unlisted, "does not list")):
        if names:
            raise ValueError(
                f"{folder / LIST} {problem}: {', '.join(names[:5])}"
                f"{' ...' if len(names) > 5 else ''} ({len(names)} in total). "
                "Each file in images/ needs one line `file label`"
            )
    return sizes, labels


def _read_labels(path: Path, images: Spellings) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        name, label = [*line.rsplit(None, 1), ""][:2]
        if not re.fullmatch(r"-?\d+", label):
            raise ValueError(f"{path} line {number} is {line!r}: expected `file label`")
        listed = f"images/{name.strip()}"
        key = images.find(listed) or listed
        if labels.setdefault(key, int(label)) != int(label):
            raise ValueError(
                f"{path} line {number} lists {name.strip()} twice, with the labels {labels[key]} "
                f"and {label}"
            )
    return labels
