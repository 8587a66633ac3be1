"""Class maps drawn over their photograph, side by side, with the colours of the classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evaluation.masks import IGNORE

WIDTH, PANEL, GAP, LINE = 1200, 400, 8, 22  # of a picture and its parts, at most; pixels
IGNORE_COLOUR = (224, 224, 192)  # of VOC's masks


def panels(
    photo: Image.Image,
    answers: Mapping[str, NDArray[np.uint8]],
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """The photo and class maps of its size side by side, captions above, classes below."""
    parts = {"photo": photo} | {k: _blend(photo, a, palette) for k, a in answers.items()}
    width = min((WIDTH - GAP) // len(parts) - GAP, PANEL)
    height = round(photo.height * width / photo.width)
    font = ImageFont.load_default(size=15)
    shown = sorted({int(v) for a in answers.values() for v in np.unique(a)} - {0, IGNORE})
    entries = [(names[c], palette[c]) for c in shown] + [("ignored", IGNORE_COLOUR)]
    places, x, row, whole = [], GAP, 0, len(parts) * (width + GAP) + GAP
    for name, _ in entries:
        need = LINE + round(font.getlength(name)) + 2 * GAP
        if x > GAP and x + need > whole:
            x, row = GAP, row + 1
        places.append((x, 2 * GAP + LINE + height + row * LINE))
        x += need
    canvas = Image.new("RGB", (whole, places[-1][1] + LINE + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (name, panel) in enumerate(parts.items()):
        left = GAP + i * (width + GAP)
        draw.text((left, GAP // 2), name, "black", font)
        canvas.paste(panel.resize((width, height), Image.Resampling.BILINEAR), (left, GAP + LINE))
    for (name, colour), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 3, left + 15, top + 18), colour, "black")
        draw.text((left + LINE, top), name, "black", font)
    return canvas


def _blend(
    photo: Image.Image, answer: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """The photo, tinted where the class is not 0."""
    colours = np.zeros((IGNORE + 1, 3))
    colours[: len(palette)], colours[IGNORE] = palette, IGNORE_COLOUR
    share = np.where(answer == 0, 0.0, 0.6)[..., None]
    mixed = (1 - share) * np.array(photo) + share * colours[answer]
    return Image.fromarray(mixed.round().astype(np.uint8))
