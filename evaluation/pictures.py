"""Small pictures for people: boxes on a photograph, panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH = 480  # of a panel, in pixels
CAPTION = 22  # height of the line above a panel
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def with_boxes(
    image: Image.Image, detections: Sequence[Sequence[float]], names: Sequence[str]
) -> Image.Image:
    """A copy of the image, `WIDTH` wide, with boxes (x1, y1, x2, y2, probability, class)."""
    scale = WIDTH / image.width
    canvas = image.resize((WIDTH, round(image.height * scale)), Image.Resampling.LANCZOS)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for x1, y1, x2, y2, score, number in sorted(detections, key=lambda row: row[4]):
        colour = COLOURS[int(number) % len(COLOURS)]
        corner = (x1 * scale, y1 * scale)
        draw.rectangle((*corner, x2 * scale, y2 * scale), outline=colour, width=2)
        text = f"{names[int(number)]} {score:.2f}"
        _, top, right, _ = draw.textbbox(corner, text, font)
        move = min(0.0, canvas.width - right - 2), max(0.0, -top)  # keep the text inside
        corner = corner[0] + move[0], corner[1] + move[1]
        draw.rectangle(draw.textbbox(corner, text, font), fill=colour)
        draw.text(corner, text, "white", font)
    return canvas


def side_by_side(panels: Mapping[str, Image.Image]) -> Image.Image:
    """Panels of any size in a row, each `WIDTH` wide below its name."""
    scaled = [
        p.resize((WIDTH, round(p.height * WIDTH / p.width)), Image.Resampling.LANCZOS)
        if p.width != WIDTH
        else p
        for p in panels.values()
    ]
    gap = 6
    size = (len(scaled) * (WIDTH + gap) - gap, CAPTION + max(p.height for p in scaled))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for i, (name, panel) in enumerate(zip(panels, scaled, strict=True)):
        draw.text((i * (WIDTH + gap), 1), name, "black", font)
        canvas.paste(panel, (i * (WIDTH + gap), CAPTION))
    return canvas
