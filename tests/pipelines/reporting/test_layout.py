"""The report of a run on a small notebook's screen: nothing runs out of the window."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from evaluation import pictures
from pipelines.reporting import canvas, html, plots

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
SEEN = {
    "window": "innerWidth",
    "page": "document.documentElement.scrollWidth",
    "right": """Math.max(...[...document.querySelectorAll('td, th, svg, img, p, a, dd')].map(
      e => e.getBoundingClientRect().right))""",
    "tables": """[...document.querySelectorAll('.scroll > table')].map(t => [t.className,
      t.parentElement.scrollWidth - t.parentElement.clientWidth,
      Math.max(...[...t.rows].map(r => r.getBoundingClientRect().height))])""",
    "pictures": "[...document.images].map(i => [i.getBoundingClientRect().width, i.naturalWidth])",
    "breaks": """[...document.querySelectorAll('.layers td:first-child')].map(d =>
      d.innerHTML.split('<wbr>').length)""",
    "letters": """[...document.querySelectorAll('svg text')].map(
      t => t.getBoundingClientRect().height)""",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with names of layers as a BERT has them, many rows, and pictures."""
    folder = tmp_path_factory.mktemp("report")
    layers = [
        layer | {"name": f"bert.encoder.layer.{i}.attention.output.dense",
                 "shape": [3072, 768, 3, 3] if i else [3072, 1, 3, 3], "groups": 1 if i else 3072,
                 "rows": 3072, "baseline_rows": 1024, "seconds": 123.4}
        for i, layer in enumerate(EXAMPLE["layers"])
    ]  # fmt: skip
    panel = pictures.with_boxes(Image.new("RGB", (640, 480)), [], [])
    pictures.side_by_side({"float": panel, "quantized": panel}).save(folder / "00.jpg")
    results = EXAMPLE | {"layers": layers, "command": ["precision.overrides.x=8"] * 30}
    drawn = {name: canvas.svg(figure) for name, figure in plots.figures(results, {}).items()}
    html.render(results, drawn, {"images/1.jpg": folder / "00.jpg"}, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def seen(report, measure):
    """seen(width) -> the values of SEEN in a window of that width."""
    return cache(lambda width: measure(report, SEEN, width))


@pytest.mark.parametrize("width", [1024, 1280, 1920])
def test_nothing_of_a_report_is_wider_than_the_window_and_rows_are_low(seen, width):
    found = seen(width)
    assert found["window"] == width
    assert found["page"] <= width and found["right"] <= width
    assert {name for name, *_ in found["tables"]} == {"summary", "layers", "left-out"}
    for name, beyond, height in found["tables"]:
        assert beyond <= 0 and height <= 60, name
    assert min(found["breaks"]) > 3, "long names go on before a dot, not within a word"


def test_pictures_are_shown_at_the_size_they_were_drawn_for(seen):
    ((shown, drawn),) = seen(1280)["pictures"]
    assert shown == drawn == 2 * pictures.WIDTH + pictures.GAP


def test_letters_of_the_plots_are_not_tiny(seen):
    assert min(seen(1280)["letters"]) >= 9


def test_every_heading_can_be_jumped_to(report):
    text = report.read_text()
    (contents,) = re.findall(r'<nav class="contents">(.*?)</nav>', text, re.DOTALL)
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', contents)
    assert links == re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', text)
    assert {"summary", "pictures", "loss", "layers"} <= {name for name, _ in links}
