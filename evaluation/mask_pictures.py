"""Class maps drawn over their photograph, side by side, with the colours of the classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evaluation.masks import IGNORE

WIDTH, PANEL, GAP, LINE = 1200, 400, 8, 25  # of a picture and its parts, at most; pixels
LETTERS = 18  # the report shows the picture at three quarters of its size
IGNORE_COLOUR = (224, 224, 192)  # of VOC's masks


def panels(
    photo: Image.Image,
    answers: Mapping[str, NDArray[np.uint8]],
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """The photo and class maps of its size side by side, captions above, classes below."""
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
    """The photo, tinted where the class is not 0, and a white line where two classes meet.

    Without the line a dark class on a dark photo cannot be seen.
    """
    classes = np.array(Image.fromarray(answer).resize(photo.size, Image.Resampling.NEAREST))
    colours = np.zeros((IGNORE + 1, 3))
    colours[: len(palette)], colours[IGNORE] = palette, IGNORE_COLOUR
    share = np.where(classes == 0, 0.0, 0.6)[..., None]
    mixed = (1 - share) * np.array(photo) + share * colours[classes]
    mixed[_borders(classes)] = 255
    return Image.fromarray(mixed.round().astype(np.uint8))


def _borders(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the next pixel to the right or below is of another class; what is ignored has none."""
    found = np.zeros(classes.shape, bool)
    for here, there, at in (
        (classes[:, :-1], classes[:, 1:], found[:, :-1]),
        (classes[:-1], classes[1:], found[:-1]),
    ):
        at |= (here != there) & (here != IGNORE) & (there != IGNORE)
    return found
