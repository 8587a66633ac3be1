"""The page of many runs on a small notebook's screen: nothing runs out of the window."""

import json
from functools import cache
from pathlib import Path

import pytest

from pipelines.comparing import discovery, page

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
COSTS = {"size": 1.234, "bops": 567.8, "roofline": 0.0123}
SEARCH = {"metric": "hessian_trace", "search": "bisection", "target": 0.999, "evaluations": 1234}
LONG = [f"precision.overrides.backbone_stage_{i}_block_{i}_conv=8" for i in range(12)]
LINES = 52  # pixels of a row with two lines of text, its padding and its rule
MODELS = {"mobilenet_v2": 50000, "cifar10_resnet20": 500, "yolov5n": 5000}

SEEN = {
    "window": "innerWidth",
    "page": "document.documentElement.scrollWidth",
    "wide": """[...document.querySelectorAll('body *')].filter(e => !e.closest('svg, .scroll *') &&
      e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))""",
    "tables": """[...document.querySelectorAll('table')].map(t => ({
      name: t.classList[0], right: Math.max(...[...t.rows].map(r =>
        r.cells[r.cells.length - 1].getBoundingClientRect().right)),
      scrolls: t.parentElement.scrollWidth - t.parentElement.clientWidth,
      highest: Math.max(...[...t.tBodies].flatMap(b => [...b.rows].filter(r => r.cells.length > 1))
        .map(r => r.getBoundingClientRect().height))}))""",
    "letters": """[...document.querySelectorAll('td, th')].map(
      c => parseFloat(getComputedStyle(c).fontSize))""",
    "folders": """[...document.querySelectorAll('.runs .folder a')].map(a => [a.textContent,
      a.getBoundingClientRect().right - a.closest('td').getBoundingClientRect().right])""",
}


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(EXAMPLE | changes))
    (folder / "report.html").write_text("a report")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The page of several models, with names and settings as long as people make them."""
    top = tmp_path_factory.mktemp("several") / "outputs"
    for model, images in MODELS.items():
        for bits in (2, 8):
            for number, method in enumerate(("rtn", "row_parallel")):
                write(top / "multiruns" / "2025-11-28_16-00-00-123456" / f"{model}{bits}{number}",
                      model=model, n_images=images, method=method, weight_bits=bits,
                      drop={"points": 12.34, "ci95": [-10.11, 22.33]}, speedup=12345.6,
                      inputs=("centred", "sequential")[number])  # fmt: skip
    write(top / "a name of a run that somebody has given to it, and it is long" / ("x" * 60),
          command=["damping=0.003", *LONG], inputs="sequential", act_bits=8, seed=12,
          quantized={"top1": 80.1})  # fmt: skip
    write(top / "searched", precision=SEARCH, costs=COSTS, device="NVIDIA A100 SXM4 40 GB")
    write(top / "elsewhere", precision=SEARCH, costs=COSTS, device="NVIDIA H200 SXM 141 GB")
    write(top / "again", precision=SEARCH, costs=COSTS, device="NVIDIA H200 SXM 141 GB")
    (top / "again" / "error.log").write_text("ValueError: no images")
    for name in ("failed", "damaged"):
        (top / name / "config").mkdir(parents=True)
        text = f"hydra: {{overrides: {{task: {json.dumps(LONG)}}}}}"
        (top / name / "config" / "hydra.yaml").write_text(text)
    (top / "failed" / "error.log").write_text("ValueError: " + "a long story, " * 40)
    (top / "damaged" / "results.json").write_text("{")
    path = top.parent / "page.html"
    page.write(discovery.find([top]), path)
    return path


@pytest.fixture(scope="module")
def seen(several, measure):
    """seen(width) -> the values of SEEN in a window of that width."""
    return cache(lambda width: measure(several, SEEN, width))


@pytest.mark.parametrize("width", [1024, 1280, 1920])
def test_all_columns_of_several_models_are_on_the_screen_and_rows_are_low(seen, width):
    found = seen(width)
    assert found["window"] == width
    tables = {table["name"]: table for table in found["tables"]}
    assert set(tables) == {"runs", "others", "compared"}
    for name, table in tables.items():
        assert table["right"] <= width, (name, table)
        assert table["scrolls"] <= 0, (name, table)
    assert tables["runs"]["highest"] <= LINES and tables["others"]["highest"] <= LINES
    assert found["page"] <= width and found["wide"] == []
    assert min(found["letters"]) >= (12 if width == 1024 else 13)


def test_the_job_of_a_sweep_can_be_read_however_long_its_folder_is(seen):
    jobs = [beyond for name, beyond in seen(1280)["folders"] if name != "x" * 60]
    assert len(jobs) == 15
    assert max(jobs) <= 0.5


def test_all_columns_at_once_scroll_inside_the_table_and_the_first_ones_stay(several, measure):
    rows = "[...document.querySelectorAll('.runs tr:not(.group)')]"
    found = measure(several, {
        "press": "document.getElementById('fold').click()",
        **SEEN,
        "scroll": "document.querySelector('.scroll').scrollLeft = 9999",
        "first": f"{rows}.map(r => [0, 1].map(i => r.cells[i].getBoundingClientRect()))",
        "last": f"{rows}.map(r => r.cells[r.cells.length - 1].getBoundingClientRect().right)",
    })  # fmt: skip
    (table,) = [table for table in found["tables"] if table["name"] == "runs"]
    assert table["scrolls"] > 0 and found["page"] <= 1280
    assert all(0 <= number["left"] < number["right"] <= method["left"] + 1 < 200
               for number, method in found["first"])  # fmt: skip
    assert max(found["last"]) <= 1280


def test_sorting_keeps_every_run_below_the_heading_of_its_model(several, measure):
    models = """[...document.querySelectorAll('.runs tbody')].map(b => [b.rows[0].textContent,
      ...[...b.rows].slice(1).map(r => r.cells[0].textContent)])"""
    press = """[...document.querySelectorAll('.runs th button')].find(
      b => b.textContent.startsWith('quantized')).click()"""
    found = measure(several, {"before": models, "once": press, "twice": press, "after": models})
    before, after = found["before"], found["after"]
    assert len(before) == len(MODELS) + 1 and before != after
    assert [(head, sorted(runs)) for head, *runs in before] == [
        (head, sorted(runs)) for head, *runs in after
    ]


def test_headings_of_one_model_on_other_images_differ_and_one_run_alone_is_not_drawn(tmp_path):
    for number, images in enumerate((500, 500, 5000, 5000, 7)):
        write(tmp_path / "runs" / str(number), n_images=images, seed=number)
    page.write(discovery.find([tmp_path / "runs"]), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    title = f"{EXAMPLE['model']} on {EXAMPLE['data']}"
    assert f"<h2>{title}, 500 images</h2>" in text and f"<h2>{title}, 5,000 images</h2>" in text
    assert f"<h2>{title}, 7 images</h2>" not in text and text.count("<b>" + title) == 3
