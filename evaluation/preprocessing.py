"""Image -> network input: resize, crop or pad, normalise, as timm does it for evaluation.

The same numbers as `timm.data.create_transform(..., is_training=False)`, from Pillow alone: another
version of timm moves no result of a network that does not come from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
CROP_PCT = 0.875  # timm's, where a network says nothing


def resampling(name: str) -> Image.Resampling:
    """Pillow's filter of timm's name.

    Raises:
        ValueError: there is no such filter.
    """
    if name not in FILTERS:
        raise ValueError(f"data_config.interpolation={name!r} must be one of {', '.join(FILTERS)}")
    return FILTERS[name]


@dataclass(frozen=True)
class Preprocessing:
    """RGB image -> x [3, *side] float32.

    Attributes:
        side: height and width of the input.
        scaled: height and width of which `side` is cut out of the middle.
        mode: "center": the image is resized until its shorter side fits; "squash": to `scaled`,
            whatever its aspect ratio; "border": until its longer side fits, padded with `mean`.
        interpolation: a key of FILTERS.
        mean, std: of each channel, in 0..1.
    """

    side: tuple[int, int]
    scaled: tuple[int, int]
    mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data_config: Mapping[str, Any]) -> Preprocessing:
        """From a model's timm data config.

        Raises:
            ValueError: it names an unknown filter.
        """
        resampling(data_config["interpolation"])
        _, height, width = data_config["input_size"]
        share = data_config.get("crop_pct") or CROP_PCT
        return cls(
            side=(height, width),
            scaled=(math.floor(height / share), math.floor(width / share)),
            mode=data_config.get("crop_mode") or "center",
            interpolation=data_config["interpolation"],
            mean=tuple(data_config["mean"]),
            std=tuple(data_config["std"]),
        )

    def __call__(self, image: Image.Image) -> Tensor:
        height, width = self._size(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), resampling(self.interpolation))
        colour = tuple(round(255 * v) for v in self.mean) if self.mode == "border" else 0
        pixels = np.array(_cropped(image, self.side, colour))
        x = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return x.sub(mean).div(std)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Of the resized image, before it is cropped."""
        if self.mode == "squash":
            return self.scaled
        rows, columns = self.scaled
        if self.mode != "border" and rows == columns:
            long = int(rows * max(height, width) / min(height, width))
            return (rows, long) if height <= width else (long, rows)
        ratios = height / rows, width / columns
        ratio = max(ratios) if self.mode == "border" else min(ratios)
        return round(height / ratio), round(width / ratio)


def _cropped(image: Image.Image, side: Sequence[int], colour: int | tuple[int, ...]) -> Image.Image:
    """The middle of the image; where it is smaller, it is padded first."""
    height, width = side
    if width > image.width or height > image.height:
        across, down = max(0, width - image.width), max(0, height - image.height)
        border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
        image = ImageOps.expand(image, border, colour)
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
