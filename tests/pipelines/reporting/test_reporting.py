import base64
import copy
import csv
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pipelines.reporting import (
    canvas,
    formatting,
    html,
    layers_csv,
    plots,
    sensitivity_plots,
    summary,
)

VOID = {"meta", "link", "br", "img", "hr", "input"}


@pytest.fixture
def results():
    return json.loads((Path(__file__).parents[1] / "example_results.json").read_text())


@pytest.fixture
def heatmaps():
    draw = torch.Generator().manual_seed(0)
    return {
        "layer1.0.conv1": torch.rand(16, 144, generator=draw, dtype=torch.float64),
        "linear": torch.rand(10, 64, generator=draw).numpy(),
    }


class Page(HTMLParser):
    """Checks that elements nest, and keeps the text, the attributes and the ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def svgs(figures):
    return {name: canvas.svg(figure) for name, figure in figures.items()}


def render(results, heatmaps, tmp_path):
    html.render(results, svgs(plots.figures(results, heatmaps)), {}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    return text, page, " ".join(" ".join(page.text).split())


def test_the_report_is_one_file_that_loads_nothing(results, heatmaps, tmp_path):
    text, page, _ = render(results, heatmaps, tmp_path)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    loads = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert [value for value in loads if not value.startswith(("#", "data:image/png;base64,"))] == []
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_report_says_how_good_how_fast_and_how_small(results, heatmaps, tmp_path):
    _, _, text = render(results, heatmaps, tmp_path)
    for said in [
        "80.78 → 80.52",
        "80.31 with the quantized weights alone",
        "0.26 [−0.17, 0.69]",
        "95.42",
        "0.0187",
        "21.4",
        "~311×",
        "estimate, 514 of 794 rows ran",
        "1.09 MB → 0.15 MB",
        "7.2× smaller",
        f"{results['loss_ratio_vs_baseline']:.3f}",
        "head.pool",
        "Conv1d is not a Linear or Conv2d layer",
        "Synthetic CPU",
        "2.15.0",
        "python -m pipelines.run experiment=synthetic_resnet20 bits=4",
        "(from the store)",
    ]:
        assert said in text, said
    for layer in results["layers"]:
        assert layer["name"] in text


def test_a_measured_baseline_is_not_called_an_estimate(results, tmp_path):
    results["baseline"]["estimated"] = False
    _, _, text = render(results, {}, tmp_path)
    assert "~311×" not in text
    assert "311×" in text
    assert "measured, 514 of 794 rows ran" in text


def test_names_cannot_inject_markup(results, tmp_path):
    hostile = "<script>alert(1)</script>&\"'"
    results["model"] = results["command"] = results["layers"][0]["name"] = hostile
    results["not_quantized"][0]["reason"] = hostile
    _, page, text = render(results, {hostile: np.ones((2, 2))}, tmp_path)
    assert "script" not in page.tags
    assert "alert(1)" in text


def test_ids_in_the_report_are_unique_and_every_reference_has_its_target(
    results, heatmaps, tmp_path
):
    text, page, _ = render(results, heatmaps, tmp_path)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert {a or b for a, b in references} <= set(ids)
    assert references


def test_plots_take_the_text_colour_of_the_page(results, heatmaps, tmp_path):
    text, _, _ = render(results, heatmaps, tmp_path)
    assert text.count("<svg") == 4
    assert "currentColor" in text
    assert "#010203" not in text
    assert "#000000" not in text.replace("stroke: #000000; stroke-width: 0.6", "")  # the dots' rim


@pytest.mark.parametrize("copies", [1, 3])
def test_figures_give_every_layer_its_own_line(results, copies):
    results["layers"] = [
        layer | {"name": f"{k}.{layer['name']}"}
        for k in range(copies)
        for layer in results["layers"]
    ]
    figures = plots.figures(results, {})
    names = [layer["name"] for layer in results["layers"]]
    for key in ("loss_per_layer", "sensitivity"):
        axes = figures[key].axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == names
        figures[key].canvas.draw()
        height = figures[key].get_figheight()
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(above.y0 > below.y1 - 1 for above, below in pairwise(boxes))
        assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes), height


def test_long_names_of_layers_are_short_and_stay_apart(results):
    names = [f"bert.encoder.layer.{i}.attention.output.dense" for i in range(12)]
    names += [f"bert.encoder.layer.{i}.output.dense" for i in range(12)]
    names += ["bert.pooler.dense", "layer1.0.conv1", "x" * 40 + "a" + "x" * 40, "x" * 81]
    found = canvas.short(names)
    assert len(set(found)) == len(names)
    assert max(map(len, found)) <= canvas.LONGEST
    assert found[11] == "b.e.l.11.attention.output.dense" and "layer1.0.conv1" in found
    deep = ["backbone.12.feature_extractor_block.convolution", "backbone.1.x"]
    assert canvas.short(deep) == ["b.12.f.convolution", "b.1.x"]


def test_the_method_of_the_layers_is_said_once_where_it_is_one(results, tmp_path):
    text, _, _ = render(results, {}, tmp_path)
    assert (
        "All layers were quantized by row_parallel." in text
        and '<th scope="col">method</th>' not in text
    )
    results["layers"][0]["method"] = "rtn"
    text, _, _ = render(results, {}, tmp_path)
    assert "All layers were quantized by" not in text and '<th scope="col">method</th>' in text
    assert "<td>rtn</td>" in text


def test_losses_are_relative_to_rtn_and_the_baseline_is_compared_on_its_own_rows():
    full = {"loss": 2.0, "loss_rtn": 8.0, "loss_baseline": 1.0, "rows": 4, "baseline_rows": 4}
    assert plots.relative_losses(full) == (0.25, 0.125)
    part = full | {"baseline_rows": 2}
    assert plots.relative_losses(part) == (0.25, None)  # 2 rows against 4: nothing to compare
    assert plots.relative_losses(part | {"loss_on_baseline_rows": 0.8}) == (0.25, 0.3125)
    assert plots.relative_losses({"loss": 1.0, "loss_rtn": 0.0}) == (None, None)


def test_the_loss_figure_shows_the_values_on_a_log_axis(results):
    axes = plots.loss_per_layer(results).axes[0]
    assert axes.get_xscale() == "log"
    shown = {line.get_label(): line.get_xdata() for line in axes.lines}
    expected = [layer["loss"] / layer["loss_rtn"] for layer in results["layers"]]
    np.testing.assert_allclose(shown["row_parallel"], expected)
    assert set(shown) == {"rtn = 1", "OBQ", "row_parallel"}


def test_cached_stages_are_hatched_and_the_others_are_not(results):
    axes = plots.seconds_per_stage(results).axes[0]
    stages = [label.get_text() for label in axes.get_yticklabels()]
    hatched = {name: bool(bar.get_hatch()) for name, bar in zip(stages, axes.patches, strict=True)}
    assert hatched == results["cached"]
    assert [bar.get_width() for bar in axes.patches] == [
        results["seconds"][name] for name in stages
    ]


def test_a_heatmap_with_zeros_and_a_wide_one_are_drawn(tmp_path):
    values = np.zeros((3, 1501))
    values[1, 700] = 5.0
    figure = sensitivity_plots.within_layers({"wide": torch.tensor(values), "none": values * 0})
    (image,) = figure.axes[0].images
    assert image.get_array().shape == (3, 501)
    np.testing.assert_allclose(image.get_array().sum(), 5.0 / 3)  # mean of three neighbours
    assert sensitivity_plots.within_layers({"none": values * 0}) is None


def test_plots_are_saved_as_svg_files_on_white(results, heatmaps, tmp_path):
    drawn = svgs(plots.figures(results, heatmaps))
    plots.save_all(drawn, tmp_path)
    names = {"loss_per_layer", "sensitivity", "sensitivity_within_layers", "seconds_per_stage"}
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.svg" for name in names}
    for name in names:
        tree = ElementTree.parse(tmp_path / f"{name}.svg")
        assert tree.getroot().tag.endswith("}svg")
        styles = [element.get("style", "") for element in tree.iter()]
        fills = [style for style in styles if style.startswith("fill: #")]
        assert fills[0] == "fill: #ffffff"  # what is drawn first: all of the figure
        assert not any(canvas.PAPER in style for style in styles)


def test_a_figure_becomes_pixels_on_white_after_it_was_drawn_as_svg_too(results):
    figure = plots.loss_per_layer(results)
    first, drawn, again = canvas.pixels(figure), canvas.svg(figure), canvas.pixels(figure)
    assert first.getpixel((0, 0)) == (255, 255, 255)
    assert first.size == tuple(int(side * canvas.DPI) for side in figure.get_size_inches())
    assert first.tobytes() == again.tobytes() and drawn == canvas.svg(figure)
    assert len(first.getcolors(1 << 20)) > 20


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-7, "10⁻⁷"), (1.0, "10⁰"), (1e12, "10¹²"), (0.05, "0.05"), (1000.0000001, "10³"), (0, "0")],
)
def test_powers_of_ten_have_raised_digits_and_other_values_none(value, text):
    axes = canvas.blank(2).add_subplot()
    canvas.powers(axes.xaxis)
    assert axes.xaxis.get_major_formatter()(value) == text


def test_results_with_nothing_but_a_name_still_make_a_report(tmp_path):
    for results in ({}, {"model": "m", "float": {"top1": 80.0}, "quantized": {}}):
        _, _, text = render(results, {}, tmp_path)
        assert "–" in text
        plots.save_all(svgs(plots.figures(results, {})), tmp_path / "plots")
        assert list((tmp_path / "plots").iterdir()) == []
        summary.print_table(results, Console(width=80, quiet=True))
        layers_csv.write(results, tmp_path / "layers.csv")


def test_the_csv_has_every_layer_at_full_precision(results, tmp_path):
    layers_csv.write(results, tmp_path / "layers.csv")
    with (tmp_path / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    every = results["layers"] + results["not_quantized"]
    assert [row["name"] for row in rows] == [layer["name"] for layer in every]
    for row, layer in zip(rows, results["layers"], strict=False):
        assert row["shape"] == "x".join(map(str, layer["shape"]))
        assert float(row["loss"]) == layer["loss"]
        assert float(row["predicted_loss_3"]) == layer["predicted_loss"]["3"]
        assert float(row["loss_vs_rtn"]) == layer["loss"] / layer["loss_rtn"]
    assert rows[-1]["reason"] == results["not_quantized"][0]["reason"]
    assert rows[-1]["loss"] == ""


def terminal(results):
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    summary.print_table(results, console)
    console.file.close()
    return console.export_text()


def test_the_terminal_table_answers_within_twenty_lines_of_eighty_columns(results):
    text = terminal(results)
    lines = text.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    for said in ["80.52 %", "float 80.78 %", "0.26 [−0.17, 0.69]", "95.42 %", "~311×", "estimate"]:
        assert said in text, said
    for said in ["0.15 MB", "1.09 MB", "3 min 36 s", results["output_dir"]]:
        assert said in text, said


def test_brackets_in_names_are_shown_and_not_taken_for_colours(results):
    results = copy.deepcopy(results) | {"model": "net[bold]", "output_dir": "runs/[red]x"}
    assert "net[bold]" in terminal(results)
    assert "runs/[red]x" in terminal(results)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12 ms"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (119.7, "2 min 00 s"),
     (3599.8, "1 h 00 min"), (7260, "2 h 01 min"), (None, "–")],
)  # fmt: skip
def test_durations_read_well_at_every_scale(value, text):
    assert formatting.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.02528, "25.3 kB"), (0.1502, "0.15 MB"), (97.49, "97.5 MB"), (None, "–")]
)
def test_sizes_read_well_at_every_scale(value, text):
    assert formatting.size(value) == text


def test_a_command_in_words_is_shown_as_typed_and_an_empty_one_not_at_all(results, tmp_path):
    _, _, text = render(results | {"command": ["obliq", "bits=3"]}, {}, tmp_path)
    assert "command obliq bits=3 folder" in text
    _, _, text = render(results | {"command": []}, {}, tmp_path)
    assert "command" not in text


def test_the_commit_is_shown_and_that_it_was_changed(results, tmp_path):
    source = {"commit": "0123abc", "dirty": True, "diff": "source.diff"}
    _, _, text = render(results | {"source": source}, {}, tmp_path)
    assert "code commit 0123abc, with the changes in source.diff" in text
    _, _, text = render(results | {"source": source | {"dirty": False}}, {}, tmp_path)
    assert "code commit 0123abc folder" in text
    for nothing in (None, [], {"commit": None}):
        _, _, text = render(results | {"source": nothing}, {}, tmp_path)
        assert "commit" not in text


def test_the_main_metric_comes_first():
    assert formatting.metrics({"float": {"top5": 99.0, "top1": 80.0}}) == ["top1", "top5"]
    assert formatting.metrics({"float": {"mine": 1.0, "miou": 70.0}}) == ["miou", "mine"]


def test_pictures_and_figures_by_class_are_in_the_page_itself(results, tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "00.jpg")
    found = {**results, "details": {"AP by class": {"cat": 12.34, "<dog>": 50.0}}}
    html.render(found, {}, {"images/a<b>.jpg": tmp_path / "00.jpg"}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    coded = base64.b64encode((tmp_path / "00.jpg").read_bytes()).decode()
    assert f'src="data:image/jpeg;base64,{coded}"' in text
    assert "images/a&lt;b&gt;.jpg" in text and "&lt;dog&gt;" in text and "12.3" in text


TRAINED = {
    "init": "row_parallel",
    "scope": "network",
    "attention": "sample_layer",
    "steps": 4000,
    "kept": True,
    "kl_before": 0.2,
    "kl_after": 0.1,
    "best_step": 2000,
    "flipped": 0.0123,
    "seconds": 60.0,
    "curve": [[1000, 3.0, None], [2000, 2.0, 0.1], [4000, 1.0, 0.15]],
}


def test_a_trained_rounding_is_drawn_from_its_start_and_told_in_words(results, tmp_path):
    trained = {**results, "rounding": TRAINED}
    drawn = plots.figures(trained, {})
    _, divergence = drawn["training"].axes
    assert divergence.lines[0].get_xydata().tolist() == [[0, 0.2], [2000, 0.1], [4000, 0.15]]
    best = next(line for line in divergence.lines if line.get_label() == "best")
    assert best.get_xydata().tolist() == [[2000, 0.1]]
    html.render(trained, svgs(drawn), {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert (
        "4,000 steps, best after 2,000, from row_parallel" in page
        and "1.2% of the codes changed" in page
    )
    assert "Training of the rounding" in page and "KL, held-out images" in page
    assert formatting.solve_seconds(trained) == formatting.solve_seconds(results) + 60
    assert "training" not in plots.figures(results, {})
