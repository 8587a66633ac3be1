"""Boxes on a photograph: every label can be read, and covers no other one."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from evaluation import box_labels, contrast, pictures

LIGHT, DARK, YELLOW = ("#ffffff", "#000000", "#ffee88")


def crowd(seed, count, width=457, height=300):
    """Boxes of every size, many of them tiny or nearly the same."""
    draw = np.random.default_rng(seed)
    sizes = draw.choice([4, 20, 90], (count, 2))
    corners = draw.uniform(0, [width, height], (count, 2)) // 40 * 40
    boxes = [(x, y, min(x + w, width), min(y + h, height)) for (x, y), (w, h) in
             zip(corners.tolist(), sizes.tolist(), strict=True)]  # fmt: skip
    return boxes, [(int(w), 18) for w in draw.integers(40, 110, count)]


@pytest.fixture
def drawn(monkeypatch):
    """What is written on pictures: (text, colour, box of the label as it was filled)."""
    found = []
    fill, write = ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.text
    last = {}

    def rectangle(self, box, fill_=None, *args, **kwargs):
        if fill_ is not None:
            last["box"], last["fill"] = tuple(box), fill_
        return fill(self, box, fill_, *args, **kwargs)

    def text(self, at, text_, colour=None, *args, **kwargs):
        if "box" in last:
            right, bottom = self.textbbox(at, text_, args[0])[2:]
            found.append((text_, colour, last["fill"], last["box"], (right, bottom)))
        return write(self, at, text_, colour, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", rectangle)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


def test_contrast_is_that_of_wcag():
    assert contrast.contrast(LIGHT, DARK) == pytest.approx(21)
    assert contrast.contrast("#777777", LIGHT) == pytest.approx(4.48, abs=0.01)
    assert contrast.contrast("#767676", LIGHT) == pytest.approx(4.54, abs=0.01)


def test_on_any_colour_there_is_an_ink_that_reads():
    steps = range(0, 256, 15)
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r in steps for g in steps for b in steps]
    assert min(contrast.contrast(c, contrast.ink(c)) for c in colours) >= 4.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 12, 40, 150])
def test_labels_lie_in_the_picture_and_do_not_overlap(seed, count):
    boxes, sizes = crowd(seed, count)
    placed = [p for p in box_labels.places(boxes, sizes, 457, 300) if p]
    assert all(0 <= x1 < x2 <= 457 and 0 <= y1 < y2 <= 300 for x1, y1, x2, y2 in placed)
    assert not any(box_labels.overlap(a, b) for a, b in combinations(placed, 2))
    assert len(placed) == count or count == 150, "there is room for 40"


def test_where_there_is_no_room_a_label_is_left_out_and_the_first_ones_stay():
    placed = box_labels.places([(0, 0, 10, 10)] * 9, [(50, 20)] * 9, 100, 40)
    assert placed[0] is not None and 1 < sum(p is not None for p in placed) <= 4


def test_a_label_stands_above_its_box_and_beside_small_ones_of_others():
    box, size = (40.0, 50.0, 200.0, 150.0), (60, 18)
    assert box_labels.places([box], [size], 300, 200) == [(40, 32, 100, 50)]
    small = (50.0, 36.0, 60.0, 46.0)  # where the label would be
    first, _ = box_labels.places([box, small], [size, size], 300, 200)
    assert first and not box_labels.overlap(first, small)
    at_the_top = box_labels.places([(0.0, 0.0, 300.0, 200.0)], [size], 300, 200)
    assert at_the_top == [(0, 0, 60, 18)]


@pytest.mark.parametrize("background", [LIGHT, DARK, YELLOW])
def test_a_crowded_picture_has_labels_that_can_be_read(background, drawn):
    boxes, _ = crowd(1, 25, 640, 420)
    rows = [[*box, 0.99 - i / 100, i % 11] for i, box in enumerate(boxes)]
    names = [f"kind {i}" for i in range(11)]
    pictures.with_boxes(Image.new("RGB", (640, 420), background), rows, names)
    assert len(drawn) == len(rows)
    assert {text for text, *_ in drawn} == {
        f"kind {i % 11} {0.99 - i / 100:.2f}" for i in range(25)
    }
    for text, ink, fill, label, (right, bottom) in drawn:
        assert contrast.contrast(ink, fill) >= 4.5, text
        assert right <= label[2] + 1 and bottom <= label[3] + 1, "the letters lie on their label"
    labels = [(x1, y1, x2 + 1, y2 + 1) for *_, (x1, y1, x2, y2), _ in drawn]
    assert not any(box_labels.overlap(a, b) for a, b in combinations(labels, 2))


@pytest.mark.parametrize("colour", pictures.COLOURS)
@pytest.mark.parametrize("background", [LIGHT, DARK, *pictures.COLOURS])
def test_the_edge_of_a_box_shows_on_any_background(background, colour):
    number = pictures.COLOURS.index(colour)
    rows = [[100, 100, 300, 200, 0.5, number]]
    names = ["a"] * len(pictures.COLOURS)
    shown = pictures.with_boxes(Image.new("RGB", (457, 300), background), rows, names)
    edge = {"#{:02x}{:02x}{:02x}".format(*shown.getpixel((x, 150))) for x in range(96, 108)}
    assert max(contrast.contrast(c, background) for c in edge) >= 3


def test_a_long_name_is_cut_and_its_probability_kept(drawn):
    image = Image.new("RGB", (300, 200))
    pictures.with_boxes(image, [[10, 10, 90, 90, 0.5, 0]], ["great white shark, " * 9])
    ((text, _, _, label, _),) = drawn
    assert text.startswith("great white") and text.endswith("… 0.50")
    assert label[2] - label[0] < 0.7 * pictures.WIDTH


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (64, 48), (900, 30), (30, 900)])
def test_panels_are_as_large_as_fits_and_named(size):
    panel = pictures.with_boxes(Image.new("RGB", size), [], [])
    assert panel.width == pictures.WIDTH or panel.height == pictures.HEIGHT
    assert panel.width <= pictures.WIDTH and panel.height <= pictures.HEIGHT
    both = pictures.side_by_side({"float": panel, "quantized": panel})
    assert both.size == (2 * panel.width + pictures.GAP, panel.height + pictures.CAPTION)
