"""Pictures for reports: boxes on a photograph, panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from evaluation import box_labels
from evaluation.box_labels import Box
from evaluation.contrast import ink

WIDTH, HEIGHT = 457, 400  # maximum size of a panel: two fit the width of the report's text
CAPTION, GAP = 22, 6  # height of the caption, space between panels; all in pixels
LETTERS, PAD = 13, 3  # font size of labels, and their horizontal padding
LONGEST = 0.6  # maximum width of a label, as a fraction of the panel's
# Okabe and Ito's colours and a dark one: distinguishable with any colour vision
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#882255")


def with_boxes(
    image: Image.Image, detections: Sequence[Sequence[float]], names: Sequence[str]
) -> Image.Image:
    """A copy of the image, scaled to a panel, with boxes (x1, y1, x2, y2, probability, class).

    Labels do not overlap: they are placed by probability, and those without room are omitted.
    """
    canvas = _fitted(image)
    scale = canvas.width / image.width
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(LETTERS)
    ranked = sorted(detections, key=lambda row: -row[4])
    boxes = [_scaled(row, scale) for row in ranked]
    colours = [COLOURS[int(row[5]) % len(COLOURS)] for row in ranked]
    texts = [_text(names[int(row[5])], row[4], font, LONGEST * canvas.width) for row in ranked]
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        dark, light = (
            "black",
            "white",
        )  # edges of the line: one of them is visible on any background
        draw.rectangle(box, outline=dark, width=1)
        draw.rectangle(_shrunk(box, 1), outline=colour, width=2)
        draw.rectangle(_shrunk(box, 3), outline=light, width=1)
    line = round(font.getbbox("Ág")[3]) + 2
    sizes = [(round(font.getlength(text)) + 2 * PAD, line) for text in texts]
    places = box_labels.places(boxes, sizes, *canvas.size)
    labels = [label for label in zip(places, boxes, colours, texts, strict=True) if label[0]]
    for place, box, colour, _ in labels:
        if place and not box_labels.overlap(
            _grown(place), box
        ):  # connect a distant label to its box
            draw.line((*_middle(place), *box[:2]), colour, 2)
    for place, _, colour, text in labels:
        if place:
            draw.rectangle((*place[:2], place[2] - 1, place[3] - 1), colour)
            draw.text((place[0] + PAD, place[1]), text, ink(colour), font)
    return canvas


def side_by_side(panels: Mapping[str, Image.Image]) -> Image.Image:
    """Panels in a row, each scaled to fit and below its name."""
    scaled = [_fitted(panel) for panel in panels.values()]
    step = max(panel.width for panel in scaled) + GAP
    size = (len(scaled) * step - GAP, CAPTION + max(panel.height for panel in scaled))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for i, (name, panel) in enumerate(zip(panels, scaled, strict=True)):
        draw.text((i * step + PAD, 1), name, "black", font)
        canvas.paste(panel, (i * step, CAPTION))
    return canvas


def _fitted(image: Image.Image) -> Image.Image:
    """The image scaled to fit a panel."""
    scale = min(WIDTH / image.width, HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.copy() if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _scaled(row: Sequence[float], scale: float) -> Box:
    x1, y1, x2, y2 = (value * scale for value in row[:4])
    return x1, y1, max(x1, x2), max(y1, y2)


def _shrunk(box: Box, by: int) -> Box:
    """The box shrunk by `by` pixels on every side; it may degenerate to a line or point."""
    x1, y1, x2, y2 = box
    return x1 + by, y1 + by, max(x1 + by, x2 - by), max(y1 + by, y2 - by)


def _grown(box: Box) -> Box:
    return box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _text(
    name: str, score: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> str:
    """ "person 0.88", with the name truncated to fit `width` pixels."""
    text, kept = f"{name} {score:.2f}", len(name)
    while font.getlength(text) > width and kept > 1:
        kept -= 1
        text = f"{name[:kept]}… {score:.2f}"
    return text
