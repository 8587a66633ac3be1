"""Images and class masks for segmentation: resizing, padding and reading from files."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluation.samples import Files, open_image

IGNORE = 255  # in a mask: pixel excluded from all metrics
PADDING = -1  # in a batch of masks: outside the image


@dataclass(frozen=True)
class Geometry:
    """Preprocessing of an image of any size to the input size `side` (height, width).

    With `pad`, the image keeps its size and is padded with zeros (after the normalisation) below
    and on the right; a larger image is first scaled down to fit, with its aspect ratio. Without it
    ("squash"), the image is resized to `side`, whatever its aspect ratio.
    """

    side: tuple[int, int]
    pad: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data_config: Mapping[str, Any]) -> "Geometry":
        """From a model's data config.

        Raises:
            ValueError: crop_mode or crop_pct would crop the image.
        """
        mode, share = data_config["crop_mode"], data_config["crop_pct"]
        if mode not in ("pad", "squash") or share != 1:
            raise ValueError(
                f"data_config has crop_mode={mode!r} and crop_pct={share}: segmentation needs a "
                "prediction for every pixel, so set crop_mode to pad or squash, and crop_pct to 1.0"
            )
        return cls(
            side=(data_config["input_size"][1], data_config["input_size"][2]),
            pad=mode == "pad",
            interpolation=data_config["interpolation"],
            mean=tuple(data_config["mean"]),
            std=tuple(data_config["std"]),
        )

    def area(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the image within the input, from its top left corner."""
        if not self.pad:
            return self.side
        share = min(1.0, self.side[0] / height, self.side[1] / width)
        return max(round(share * height), 1), max(round(share * width), 1)

    def input(self, image: Image.Image) -> Tensor:
        """The network input [3, *side], float32."""
        from timm.data.transforms import str_to_pil_interp  # slow to import

        height, width = self.area(image.height, image.width)
        if (width, height) != image.size:
            image = image.resize((width, height), str_to_pil_interp(self.interpolation))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (self.mean, self.std))
        return F.pad((x - mean) / std, (0, self.side[1] - width, 0, self.side[0] - height))


@dataclass(frozen=True)
class Masks:
    """(path of a mask relative to the root, (width, height) of its image) -> classes [h, w]."""

    files: Files
    classes: int

    def __call__(self, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read one mask.

        Raises:
            ValueError: the mask has the wrong size or mode, or values that are not a class.
            OSError: the file is missing or damaged.
        """
        path = self.files.root / name
        image = open_image(io.BytesIO(self.files(name)))
        if image.mode not in ("P", "L"):
            raise ValueError(
                f"mask {path} has the mode {image.mode}: masks hold class indices, so they must "
                "be 8-bit palette or greyscale PNGs. Convert colours to indices first"
            )
        if image.size != size:
            raise ValueError(
                f"mask {path} is {image.width}x{image.height} but its image is "
                f"{size[0]}x{size[1]}: they must match. Is it the mask of another image?"
            )
        mask: NDArray[np.uint8] = np.array(image)
        wrong = [int(v) for v in np.unique(mask) if v >= self.classes and v != IGNORE]
        if wrong:
            raise ValueError(
                f"mask {path} has the values {wrong[:5]}: only 0..{self.classes - 1} and {IGNORE} "
                "(ignore) are allowed. Does it hold colours, or other classes?"
            )
        return mask


@dataclass(frozen=True)
class Masked:
    """(x [3, *side], mask [*canvas] int64 with PADDING outside the image; [0] without a mask)."""

    geometry: Geometry
    masks: Masks
    canvas: tuple[int, int]

    def __call__(self, image: Image.Image, label: str) -> tuple[Tensor, Tensor]:
        x = self.geometry.input(image)
        if not label:
            return x, torch.zeros(0, dtype=torch.int64)
        y = torch.full(self.canvas, PADDING)
        y[: image.height, : image.width] = torch.from_numpy(self.masks(label, image.size))
        return x, y


def size_of(blob: bytes) -> tuple[int, int]:
    """(width, height), without decoding the pixels."""
    return open_image(io.BytesIO(blob)).size
