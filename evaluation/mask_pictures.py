"""Class maps drawn over their photograph, side by side, with a legend of the classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evaluation.masks import IGNORE

WIDTH, PANEL, GAP, LINE = (
    1200,
    400,
    8,
    25,
)  # maximum widths of the picture and a panel, gap, line height; pixels
LETTERS = 18  # font size; the report scales the picture to three quarters
IGNORE_COLOUR = (224, 224, 192)  # as in VOC's masks


def panels(
    photo: Image.Image,
    answers: Mapping[str, NDArray[np.uint8]],
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """The photo and class maps of the same size side by side, with captions and a legend."""
    width = min((WIDTH - GAP) // (1 + len(answers)) - GAP, PANEL)
    height = max(1, round(photo.height * width / photo.width))
    small = photo.resize((width, height), Image.Resampling.BILINEAR)
    parts = {"photo": small} | {name: _blend(small, a, palette) for name, a in answers.items()}
    font = ImageFont.load_default(size=LETTERS)
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
        canvas.paste(panel, (left, GAP + LINE))
    for (name, colour), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 4, left + 16, top + 20), colour, "black")
        draw.text((left + LINE, top), name, "black", font)
    return canvas


def _blend(
    photo: Image.Image, answer: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """The photo, tinted where the class is not 0, with a white line between classes.

    The line keeps a dark class on a dark photo visible.
    """
    classes = np.array(Image.fromarray(answer).resize(photo.size, Image.Resampling.NEAREST))
    colours = np.zeros((IGNORE + 1, 3))
    colours[: len(palette)], colours[IGNORE] = palette, IGNORE_COLOUR
    share = np.where(classes == 0, 0.0, 0.6)[..., None]
    mixed = (1 - share) * np.array(photo) + share * colours[classes]
    mixed[_borders(classes)] = 255
    return Image.fromarray(mixed.round().astype(np.uint8))


def _borders(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class; ignored pixels have no border."""
    found = np.zeros(classes.shape, bool)
    for here, there, at in (
        (classes[:, :-1], classes[:, 1:], found[:, :-1]),
        (classes[:-1], classes[1:], found[:-1]),
    ):
        at |= (here != there) & (here != IGNORE) & (there != IGNORE)
    return found
