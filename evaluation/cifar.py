"""CIFAR-10: the original python batches, or concatenated JPEGs in an .npz file.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009). The python batches
are pickles; reading them runs no code.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.classification import ClassificationData
from evaluation.decoding import decode_file
from evaluation.pickles import load
from evaluation.samples import Samples

SIDE = 32
EVALUATION_NPZ = "cifar10_dev5000.npz"
CALIBRATION_NPZ = "cifar10_calib2000.npz"
BATCHES_FOLDER = "cifar-10-batches-py"
TEST_BATCHES = ("test_batch",)
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Cifar10(ClassificationData):
    """CIFAR-10.

    `root` and `calibration_root` are one of

    - an `.npz` file: `jpeg` (concatenated bytes of all files), `offset` [n + 1], `label` [n],
    - a folder with `cifar10_dev5000.npz` (evaluation), `cifar10_calib2000.npz` (calibration),
    - the folder `cifar-10-batches-py`, or its parent: test batch (evaluation), training batches
      (calibration).

    Calibration images come from the calibration part of `calibration_root` (null: of `root`), or
    from its evaluation part if there is none.
    """

    classes = 10
    names = NAMES

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: point it to the folder cifar-10-batches-py or to an .npz "
                "file of JPEGs, data.root=/path/to/cifar10 (or set the environment variable "
                "OBLIQ_DATA)"
            )
        root = Path(self.root).expanduser()
        evaluation = read(root, EVALUATION_NPZ, TEST_BATCHES)
        calibration_root = Path(self.calibration_root or root).expanduser()
        if _holds(calibration_root, CALIBRATION_NPZ, TRAIN_BATCHES):
            return read(calibration_root, CALIBRATION_NPZ, TRAIN_BATCHES), evaluation
        if calibration_root == root:
            return evaluation, evaluation
        return read(calibration_root, EVALUATION_NPZ, TEST_BATCHES), evaluation


def _holds(root: Path, npz: str, batches: tuple[str, ...]) -> bool:
    folders = (root, root / BATCHES_FOLDER)
    return (root / npz).is_file() or any((f / b).is_file() for f in folders for b in batches)


def read(root: Path, npz: str, batches: tuple[str, ...]) -> Samples:
    """Index the images at `root`: an .npz file, a folder with the file `npz`, or with batches.

    Raises:
        ValueError: `root` has none of these, or a file is damaged or contains code.
    """
    if root.is_file():
        return read_npz(root)
    if (root / npz).is_file():
        return read_npz(root / npz)
    folder = root / BATCHES_FOLDER if (root / BATCHES_FOLDER).is_dir() else root
    missing = [name for name in batches if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{root} holds no CIFAR-10: it has neither {npz} nor {', '.join(missing)}. Use "
            "cifar-10-batches-py, its parent folder, or an .npz file of JPEGs"
        )
    return read_batches([folder / name for name in batches])


@dataclass(frozen=True, eq=False)
class Slices:
    """Encoded JPEG of the id "name#i": bytes offset[i] .. offset[i + 1] of `jpeg`."""

    jpeg: NDArray[np.uint8]
    offset: NDArray[np.int64]

    def __call__(self, name: str) -> bytes:
        i = int(name.rpartition("#")[2])
        return self.jpeg[self.offset[i] : self.offset[i + 1]].tobytes()


def read_npz(path: Path) -> Samples:
    """Index the JPEGs of an .npz file.

    Raises:
        ValueError: the file is damaged, contains pickled objects, or its arrays are inconsistent.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            jpeg, offset, label = (np.asarray(arrays[name]) for name in ("jpeg", "offset", "label"))
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is not an .npz file with the arrays jpeg, offset and label: {error}"
        ) from error
    steps = np.diff(offset)
    if (
        offset.ndim != 1
        or label.shape != steps.shape
        or not len(label)
        or offset[0] != 0
        or offset[-1] != jpeg.size
        or (steps < 0).any()
    ):
        raise ValueError(
            f"{path}: jpeg {list(jpeg.shape)}, offset {list(offset.shape)}, label "
            f"{list(label.shape)} are inconsistent: offset must rise from 0 to the length of jpeg "
            "and have one more entry than label. Is the file truncated?"
        )
    return Samples(
        ids=tuple(f"{path.stem}#{i}" for i in range(len(label))),
        labels=tuple(label.tolist()),
        blob=Slices(jpeg, offset),
        decode=decode_file,
        sizes=tuple(steps.tolist()),
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """Pixels of the id "batch#i": row i of a batch (3072 bytes: red, green, blue plane)."""

    arrays: dict[str, NDArray[np.uint8]]

    def __call__(self, name: str) -> bytes:
        batch, _, i = name.rpartition("#")
        row: bytes = self.arrays[batch][int(i)].tobytes()
        return row


def decode_planes(blob: bytes) -> Image.Image:
    """3072 bytes, one plane per channel -> 32x32 RGB image."""
    planes = np.frombuffer(blob, np.uint8).reshape(3, SIDE, SIDE)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def read_batches(paths: list[Path]) -> Samples:
    """Index all images of some python batches.

    Raises:
        ValueError: a pickle is damaged, contains code, or is not a CIFAR-10 batch.
    """
    arrays: dict[str, NDArray[np.uint8]] = {}
    ids: list[str] = []
    labels: list[int] = []
    for path in paths:
        arrays[path.name], batch_labels = _batch(path, path.read_bytes())
        ids += [f"{path.name}#{i}" for i in range(len(batch_labels))]
        labels += batch_labels
    return Samples(
        ids=tuple(ids),
        labels=tuple(labels),
        blob=Rows(arrays),
        decode=decode_planes,
        sizes=(3 * SIDE * SIDE,) * len(ids),
    )


def _batch(path: Path, blob: bytes) -> tuple[NDArray[np.uint8], list[int]]:
    try:
        batch = load(blob)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error.__cause__
    try:
        named = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        data, labels = named["data"], [int(y) for y in named["labels"]]
        fits = data.dtype == np.uint8 and data.shape == (len(labels), 3 * SIDE * SIDE)
    except (AttributeError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"{path} is not a CIFAR-10 batch: it must hold data, uint8 [n, 3072], and labels, "
            "n ints"
        )
    return data, labels
