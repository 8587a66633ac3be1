"""Runs beside each other: what is found, what may be compared, and the files for papers."""

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.comparing import __main__ as command
from pipelines.comparing import cells, discovery, facets, files, layers, markers, plots
from pipelines.reporting import layers_csv

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())


def write(folder, **changes):
    """A run with results; a change to None takes the key away."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {k: v for k, v in (EXAMPLE | changes).items() if v is not None}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def configure(folder, words=(), **config):
    """What Hydra writes when a run starts."""
    (folder / "config").mkdir(parents=True)
    choices = {"model": "resnet", "data": "cifar10", "method": "rtn", "experiment": None}
    hydra = {"runtime": {"choices": choices}, "overrides": {"task": list(words)}}
    (folder / "config" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump({"bits": 4, **config}))
    return folder


def states(runs):
    return {run.folder.name: run.state for run in runs}


def point(size, accuracy):
    known = {"size": size, "accuracy": accuracy, "estimated": False}
    names = (field.name for field in dataclasses.fields(facets.Point))
    return facets.Point(**{**dict.fromkeys(names), **known})


def test_every_run_is_shown_as_what_became_of_it(tmp_path):
    write(tmp_path / "done")
    (configure(tmp_path / "failed", ["bits=3"]) / "error.log").write_text(
        "Traceback (most recent call last):\n  File 'a.py'\n    f()\nValueError: no images\n"
    )
    configure(tmp_path / "started", ["method=rtn"])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "results.json").write_text('{"model": "a", "meth')
    (tmp_path / "no run at all").mkdir()
    runs = discovery.find([tmp_path, tmp_path / "done"])  # given twice, found once
    assert states(runs) == {
        "done": "done", "failed": "failed", "started": "started", "cut": "damaged",
    }  # fmt: skip
    by_name = {run.folder.name: run for run in runs}
    assert by_name["failed"].reason == "ValueError: no images"
    assert by_name["failed"].asked["command"] == ["bits=3"]
    assert by_name["started"].asked["method"] == "rtn"
    assert "results.json: Unterminated string" in by_name["cut"].reason
    assert [run.number for run in runs] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"drop": {"points": "much"}}, "drop.points holds 'much', not a number"),
        ({"drop": {"points": 1, "ci95": [1]}}, "drop.ci95 must hold two numbers"),
        ({"quantized": {"top1": True}}, "quantized.top1 holds 'True'"),
        ({"speedup": [1]}, "speedup holds '[1]'"),
        ({"layers": {"a": 1}}, "layers must be a list"),
        ({"layers": [{"name": "a", "loss": "x"}]}, "layer a: loss holds 'x'"),
        ({"layers": [{"name": "a", "shape": [1, "2"]}]}, "layer a: shape holds '2'"),
        ({"seconds": [1]}, "seconds must be an object"),
    ],
)
def test_results_with_something_else_where_a_number_belongs_are_damaged(tmp_path, changes, reason):
    write(tmp_path / "run", **changes)
    (run,) = discovery.find([tmp_path])
    assert run.state == "damaged" and reason in run.reason


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff\xfe", ""])
def test_a_file_that_is_no_json_is_named(tmp_path, text):
    (tmp_path / "results.json").write_bytes(text.encode("latin-1"))
    (run,) = discovery.find([tmp_path])
    assert run.state == "damaged" and run.reason.startswith("results.json: ")


def test_numbers_that_are_not_finite_read_as_missing(tmp_path):
    text = json.dumps(EXAMPLE | {"speedup": float("nan")})
    (tmp_path / "results.json").write_text(text)
    (run,) = discovery.find([tmp_path])
    assert run.results["speedup"] is None


def test_finding_nothing_says_where_it_looked(tmp_path, capsys):
    assert command.main([str(tmp_path)]) == 1
    assert f"no run below {tmp_path}" in capsys.readouterr().err
    assert command.main([str(tmp_path / "absent")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "comparison.html").exists()


def test_same_settings_are_named_whatever_machine_and_tracking(tmp_path):
    configure(write(tmp_path / "a"), bits=4, machine={"cores": 2}, tracking={"mode": "none"})
    configure(write(tmp_path / "b"), bits=4, machine={"cores": 8}, tracking={"mode": "online"})
    configure(write(tmp_path / "c"), bits=4, damping=0.1)
    configure(tmp_path / "d", bits=4)  # started again
    runs = {run.folder.name: run for run in discovery.find([tmp_path])}
    assert runs["a"].same_as is None and runs["c"].same_as is None
    assert runs["b"].same_as == runs["a"].number == runs["d"].same_as


def test_without_a_configuration_settings_are_what_the_results_say(tmp_path):
    one = ["method=rtn", "bits=4", "block_size=32", "tracking=none", "baseline.budget=1"]
    write(tmp_path / "a", command=one)
    write(tmp_path / "b", command=[*reversed(one[:3]), "machine=cluster"])
    write(tmp_path / "c", command=["block_size=64"])
    runs = {run.folder.name: run for run in discovery.find([tmp_path])}
    assert runs["b"].same_as == runs["a"].number
    assert runs["c"].same_as is None


def test_other_models_data_metrics_and_images_are_other_facets(tmp_path):
    for i, changes in enumerate(
        [{}, {"method": "obq"}, {"model": "b"}, {"data": "d"}, {"n_images": 7}, {"metric": "top5"}]
    ):
        write(tmp_path / str(i), **changes)
    split = facets.split(discovery.find([tmp_path]))
    assert sorted(len(facet.points) for facet in split) == [1, 1, 1, 1, 2]


def test_a_series_is_named_by_what_differs(tmp_path):
    write(tmp_path / "a", method="rtn", inputs="float", command=["cd_passes=1"])
    write(tmp_path / "b", method="rtn", inputs="float", command=["cd_passes=1"], act_bits=8)
    write(tmp_path / "c", method="rtn", inputs="float", command=["cd_passes=1", "block_size=32"])
    (facet,) = facets.split(discovery.find([tmp_path]))
    assert list(facet.series) == ["rtn", "rtn, block_size=32", "rtn, 8-bit activations"]
    found = markers.styles(facet)
    assert found["rtn"].colour == markers.OF_METHODS["rtn"]
    assert len({style.colour for style in found.values()}) == 3


def test_a_series_of_searched_bits_is_named_by_the_search_not_by_what_it_found(tmp_path):
    found = {"metric": "inter_layer", "search": "quadratic", "target": 0.99, "measure": "agreement"}
    other = found | {"metric": "hessian_trace", "search": "bisection"}
    words = ["precision=mixed", "precision.target=0.99"]
    more = ["precision.metric=hessian_trace", "precision.search=bisection"]
    write(tmp_path / "a", method="rtn", act_bits=2.2, precision=found, command=words)
    write(tmp_path / "b", method="rtn", act_bits=2.9, precision=other, command=[*words, *more])
    (facet,) = facets.split(discovery.find([tmp_path]))
    assert list(facet.series) == [
        "rtn, inter_layer + quadratic, 99 % of agreement",
        "rtn, hessian_trace + bisection, 99 % of agreement",
    ]


def test_bits_are_the_mean_over_weights():
    layers_ = [{"shape": [2, 3], "bits": 8}, {"shape": [1, 2, 3, 3], "bits": 2}]
    assert facets.mean_bits({"layers": layers_, "weight_bits": 4}) == (6 * 8 + 18 * 2) / 24
    assert facets.mean_bits({"layers": [], "weight_bits": 4}) == 4
    assert facets.mean_bits({}) is None


def test_the_interval_of_the_accuracy_is_that_of_the_drop_below_the_float_network(tmp_path):
    write(tmp_path / "a", float={"top1": 80.0}, quantized={"top1": 78.0},
          drop={"points": 2.0, "ci95": [1.5, 2.75]})  # fmt: skip
    (only,) = facets.split(discovery.find([tmp_path]))[0].points
    assert (only.low, only.accuracy, only.high) == (77.25, 78.0, 78.5)


def test_the_front_holds_what_nothing_beats_and_ties():
    points = [point(1, 50), point(1, 60), point(1.5, 60), point(2, 70), point(2, 70), point(3, 65),
              point(None, 99), point(0.5, None)]  # fmt: skip
    assert facets.front(points) == [points[1], points[3], points[4]]


def test_the_front_over_another_cost_goes_by_that_cost():
    points = [replace(point(1, 60), bops=9.0), replace(point(2, 50), bops=3.0), point(0.5, 99)]
    assert facets.front(points, lambda p: p.bops) == [points[1], points[0]]


def test_searched_bits_are_drawn_against_every_cost_and_device(tmp_path):
    costs = {"size": 1.0, "bops": 5.0, "roofline": 0.25}
    search = {"metric": "inter_layer", "search": "greedy", "widths": [4, 8]}
    for name, device in (("a", "A100"), ("b", "H200")):
        write(tmp_path / name, costs=costs, device=device, precision=search)
    drawn = plots.figures(facets.split(discovery.find([tmp_path]))[0])
    assert {"pareto", "bops", "latency, A100", "latency, H200"} <= set(drawn)
    for device in ("A100", "H200"):
        axes = drawn[f"latency, {device}"].axes[0]
        assert device in axes.get_xlabel()
        at = [line.get_xdata()[0] for line in axes.lines if line.get_marker() not in ("", "None")]
        assert at == [0.25], "only the run on this device"


def test_figures_are_those_that_the_values_suffice_for(tmp_path):
    write(tmp_path / "full")
    write(tmp_path / "bare" / "b", model="bare", float={}, quantized={}, speedup=None)
    full, bare = sorted(facets.split(discovery.find([tmp_path])), key=lambda f: f.model == "bare")
    assert set(plots.figures(full)) == {"bits", "pareto", "seconds", "speedup"}
    assert plots.figures(bare) == {}


def test_a_run_far_below_the_others_gets_an_arrow_in_the_close_up(tmp_path):
    for i, (bits, top1) in enumerate([(2, 10.0), (3, 78.0), (4, 79.0), (8, 80.0)]):
        write(tmp_path / str(i), weight_bits=bits, float={"top1": 80.0}, quantized={"top1": top1},
              drop={"points": 80.0 - top1, "ci95": [79 - top1, 81 - top1]})  # fmt: skip
    (facet,) = facets.split(discovery.find([tmp_path]))
    drawn = plots.figures(facet)
    limits = {name: figure.axes[0].get_ylim() for name, figure in drawn.items()}
    assert limits["bits"][0] < 10 and limits["close"][0] > 70
    for name in ("close", "pareto", "seconds"):
        assert "10.0" in [text.get_text() for text in drawn[name].axes[0].texts]


def test_layers_come_from_layers_csv_where_the_results_have_none(tmp_path):
    write(tmp_path / "a", layers=None)
    layers_csv.write(EXAMPLE, tmp_path / "a" / "layers.csv")
    (run,) = discovery.find([tmp_path])
    read, known = run.results["layers"], EXAMPLE["layers"]
    assert [layer["name"] for layer in read] == [layer["name"] for layer in known]
    for key in ("shape", "bits", "loss", "seconds"):
        assert [layer[key] for layer in read] == [layer[key] for layer in known]


def test_the_comparison_of_layers_begins_with_two_methods_on_the_same_problem(tmp_path):
    write(tmp_path / "a", method="rtn", weight_bits=3)
    write(tmp_path / "b", method="obq", weight_bits=4)
    write(tmp_path / "c", method="rtn", weight_bits=4)
    runs = discovery.find([tmp_path])
    named = {run.number: run.results["method"] for run in runs}
    titles = [layers.data(runs, named)[i]["title"] for i in layers.first_two(runs)]
    assert ["obq" in titles[0], "rtn" in titles[1]] == [True, True]
    assert all("4-bit" in title for title in titles)
    assert layers.first_two(runs[:1]) == (0, 0)


def rows_of(tmp_path):
    """Rows of the page's table, facet by facet."""
    split = facets.split(discovery.find([tmp_path]))
    return [[cells.row(point) for point in facet.points] for facet in split]


def test_columns_that_say_the_same_everywhere_are_said_once(tmp_path):
    write(tmp_path / "a", method="rtn", inputs="float")
    write(tmp_path / "b", method="obq", inputs="float")
    columns, alike = cells.spread(rows_of(tmp_path))
    assert alike["inputs"] == "float" and "inputs" not in columns
    assert {"method", "quantized", "speed-up"} <= set(columns)


def test_the_float_network_has_a_column_only_where_runs_disagree_on_it(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", model="another", float={"top1": 70.0})
    assert "float" not in cells.spread(rows_of(tmp_path))[0]
    write(tmp_path / "c", float={"top1": 71.0})
    assert "float" in cells.spread(rows_of(tmp_path))[0]


def test_settings_that_all_runs_have_are_said_once(tmp_path):
    write(tmp_path / "a", method="rtn", command=["block_size=8", "damping=0.1"])
    write(tmp_path / "b", method="rtn", command=["damping=0.1", "cd_passes=2"])
    (facet,) = facets.split(discovery.find([tmp_path]))
    assert facet.shared == "damping=0.1"
    assert [point.own for point in facet.points] == ["cd_passes=2", "block_size=8"]
    columns, _ = cells.spread(rows_of(tmp_path))
    assert "other settings" in columns
    (facet,) = facets.split(discovery.find([tmp_path / "a"]))
    assert (facet.shared, facet.points[0].own) == ("block_size=8 damping=0.1", "")
    assert "other settings" not in cells.spread(rows_of(tmp_path / "a"))[0]


SEARCH = {"metric": "inter_layer", "search": "greedy", "target": 0.99, "evaluations": 7}


def test_few_searched_runs_have_their_costs_folded_and_their_search_among_the_settings(tmp_path):
    costs = {"size": 1.0, "bops": 5.0, "roofline": 0.25}
    for name in "abc":
        write(tmp_path / name, method=name)
    write(tmp_path / "d", precision=SEARCH, costs=costs, device="A100")
    (rows,) = rows_of(tmp_path)
    columns, _ = cells.spread([rows])
    assert "search" not in columns
    texts = [row["other settings"].text for row in rows]
    assert sorted(texts) == ["", "", "", "inter_layer + greedy, 99 % of float"]
    assert {"GBOPs", "ms, A100"} <= set(cells.folded(columns, rows))
    for name in "efg":
        write(tmp_path / name, precision=SEARCH, costs=costs, device="A100", method=name)
    (rows,) = rows_of(tmp_path)
    columns, _ = cells.spread([rows])
    assert not {"GBOPs", "ms, A100"} & set(cells.folded(columns, rows))


def test_no_two_series_look_alike(tmp_path):
    methods = ["rtn", "obq", "row_parallel", *"abc"]
    for number in range(50):
        write(tmp_path / str(number), method=methods[number % 6], inputs=f"i{number // 6}")
    (facet,) = facets.split(discovery.find([tmp_path]))
    styles = markers.styles(facet)
    assert len(styles) == len(set(styles.values())) == 50
    firsts = {name: styles[next(n for n in styles if n.startswith(name))] for name in methods[:3]}
    assert {name: style.colour for name, style in firsts.items()} == markers.OF_METHODS


@pytest.fixture
def mixed(tmp_path):
    """Two facets, a run with the settings of another one, and one that failed."""
    write(tmp_path / "one", method="a_b", command=["x=1"])
    write(tmp_path / "two", method="a_b", command=["x=1"])
    write(tmp_path / "three", model="100% & {odd}")
    configure(tmp_path / "four")
    (tmp_path / "four" / "error.log").write_text("ValueError: no\nimages")
    return discovery.find([tmp_path])


def test_markdown_has_a_table_per_facet_and_names_what_is_in_none(mixed):
    text = files.markdown(mixed)
    assert text.count("\n| ---") == 2
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 * 2 + 3
    assert "four (failed: an error.log and no results.json: ValueError: no images)" in text
    assert "has the settings of run" in text


def test_latex_is_escaped_and_balanced(mixed):
    text = files.latex(mixed)
    assert r"100\% \& \{odd\}" in text and r"a\_b" in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 + 3 and len({line.replace(r"\&", "").count("&") for line in rows}) == 1
    assert next(line for line in text.splitlines() if "no images" in line).startswith("% ")
    assert files.escape("a\\b−~") == r"a\textbackslash{}b$-$$\sim$"


def test_latex_compiles(mixed, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    import subprocess

    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(head + files.latex(mixed) + "\\end{document}\n")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_csv_has_every_run_at_full_precision(mixed):
    rows = list(csv.DictReader(io.StringIO(files.table_csv(mixed))))
    assert [row["state"] for row in rows] == ["done", "done", "done", "failed"]
    assert float(rows[0]["quantized"]) == EXAMPLE["quantized"]["top1"]
    assert float(rows[0]["drop_low"]) == EXAMPLE["drop"]["ci95"][0]
    assert float(rows[0]["solve_seconds"]) == sum(layer["seconds"] for layer in EXAMPLE["layers"])
    assert rows[3]["method"] == "rtn" and rows[3]["quantized"] == ""
    assert [row["same_as"] for row in rows].count("") == 3


def test_the_command_writes_what_is_asked_for_and_names_what_is_damaged(tmp_path, capsys):
    write(tmp_path / "runs" / "good")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "results.json").write_text("{")
    names = {kind: tmp_path / "out" / kind for kind in ("html", "markdown", "csv", "latex")}
    words = [word for kind, path in names.items() for word in (f"--{kind}", str(path))]
    assert command.main([str(tmp_path / "runs"), *words]) == 0
    assert all(path.stat().st_size for path in names.values())
    said = capsys.readouterr()
    assert said.out.split() == [str(path) for path in names.values()]
    assert f"damaged: {tmp_path / 'runs' / 'bad'} results.json: Expecting" in said.err


HUGE = "1" + 400 * "0"


@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, "1e999", 5000 * "9"])
def test_a_number_beyond_all_others_reads_as_missing_wherever_it_stands(tmp_path, number):
    layer = {"name": "a", "shape": [4, 4], "bits": 4, "loss": 1.0, "sensitivity": "N"}
    changed = {"speedup": "N", "seconds": {"total": "N"}, "costs": {"bops": "N"}}
    text = json.dumps(EXAMPLE | changed | {"layers": [layer]}).replace('"N"', number)
    (tmp_path / "results.json").write_text(text)
    write(tmp_path / "good")
    out = tmp_path / "page.html"
    every = [word for k in ("markdown", "csv", "latex") for word in (f"--{k}", str(tmp_path / k))]
    assert command.main([str(tmp_path), "--html", str(out), *every]) == 0
    runs = discovery.find([tmp_path])
    assert [run.state for run in runs] == ["done", "done"]
    assert {run.results["speedup"] for run in runs} == {None, EXAMPLE["speedup"]}


@pytest.mark.parametrize("name", ["results.json", "layers.csv", "error.log", "config/hydra.yaml"])
def test_a_pipe_among_the_files_of_a_run_is_not_waited_for(tmp_path, name):
    folder = write(tmp_path / "run", layers=[])
    (folder / "config").mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name == "error.log":
        (folder / "results.json").unlink()
    write(tmp_path / "good")
    words = [str(tmp_path), "--html", str(tmp_path / "page.html")]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.comparing", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    wanted = {"results.json": "damaged", "error.log": "failed"}.get(name)
    assert wanted is None or f"{wanted}: {folder}" in done.stderr


HOSTILE = {
    "costs": "none",
    "cost_units": ["a"],
    "cached": "all",
    "details": [1],
    "fingerprints": [2],
    "precision": "mixed",
    "settings": {"a": {"b": [[{}]]}},
    "command": {"a": 1},
    "model": {"name": ["x"]},
    "metric": ["top1"],
    "inputs": {"a": 1},
    "device": [1],
    "layers": [{"name": 3, "shape": [2, 2], "bits": 4, "sensitivity": [], "method": {}}],
}


@pytest.mark.parametrize("key", HOSTILE)
def test_no_value_in_one_file_ends_the_report_of_the_others(tmp_path, key):
    write(tmp_path / "bad", **{key: HOSTILE[key]})
    write(tmp_path / "good")
    out = tmp_path / "page.html"
    assert command.main([str(tmp_path), "--html", str(out), "--csv", str(tmp_path / "a.csv")]) == 0
    assert str(tmp_path / "good") in (tmp_path / "a.csv").read_text()
