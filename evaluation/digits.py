"""Handwritten digits, 8x8 greyscale: UCI's test set as included in scikit-learn; no files."""

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.classification import ClassificationData
from evaluation.samples import Samples

# The split is part of the data set's definition: changing these values changes the data set.
SPLIT_SEED = 0
HELD_OUT = 500


@dataclass(frozen=True, eq=False)
class Pixels:
    """The 64 pixels (0..255) of the digit with the id "digits#17"."""

    array: NDArray[np.uint8]  # [n, 64]

    def __call__(self, name: str) -> bytes:
        row: bytes = self.array[int(name.removeprefix("digits#"))].tobytes()
        return row


def decode_digit(blob: bytes) -> Image.Image:
    """64 greyscale bytes -> 8x8 RGB image."""
    return Image.frombytes("L", (8, 8), blob).convert("RGB")


def table() -> NDArray[np.float64]:
    """Rows [1797, 65] of 64 pixels (0..16) and the digit.

    Reads the file in scikit-learn's package: importing scikit-learn takes half as long as importing
    torch, and is the fallback if the file is not there.
    """
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as text:
                return np.loadtxt(text, delimiter=",")
    return _imported()


def _imported() -> NDArray[np.float64]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return np.column_stack((pixels, digits))


def split() -> tuple[Samples, Samples]:
    """(training pool of 1297 digits, evaluation pool of 500), a fixed split.

    Training and calibration use the training pool only.
    """
    rows = table()
    grey = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255, injective
    pixels = Pixels(grey)
    everything = Samples(
        ids=tuple(f"digits#{i}" for i in range(len(grey))),
        labels=tuple(rows[:, -1].astype(int).tolist()),
        blob=pixels,
        decode=decode_digit,
        sizes=(grey.shape[1],) * len(grey),
    )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(grey)).tolist()
    return everything.take(order[HELD_OUT:]), everything.take(order[:HELD_OUT])


class Digits(ClassificationData):
    """Calibrates on the training pool, evaluates on the held-out digits."""

    classes = 10

    def pools(self) -> tuple[Samples, Samples]:
        if self.root or self.calibration_root:
            raise ValueError(
                f"data.root={self.root}, data.calibration_root={self.calibration_root}: the digits "
                "are embedded in scikit-learn and read no folder. Remove both settings, or use "
                "data=cifar10 or data=imagenet"
            )
        return split()
