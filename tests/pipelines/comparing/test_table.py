import json
from pathlib import Path

import pytest

from pipelines.comparing import table

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(EXAMPLE | changes))


def test_every_run_below_the_folders_is_one_row_in_order_of_model_bits_and_method(tmp_path, capsys):
    write(tmp_path / "sweep" / "0", model="b", weight_bits=4, method="rtn")
    write(tmp_path / "sweep" / "1", model="b", weight_bits=3, method="rtn")
    write(tmp_path / "sweep" / "deep" / "er", model="b", weight_bits=3, method="gptq")
    write(tmp_path / "other", model="a", weight_bits=10, method="obq")
    write(tmp_path / "more", model="a", weight_bits=2, method="obq")
    # the sweep is given twice, a run must not be
    folders = [tmp_path / "sweep", tmp_path / "other", tmp_path / "more", tmp_path / "sweep"]
    assert table.main([*map(str, folders), "--markdown"]) == 0
    head, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert set("".join(rule)) == {"-", ":"}
    assert [[*row[:2], row[3]] for row in rows] == [
        ["a", "obq", "2"],
        ["a", "obq", "10"],
        ["b", "gptq", "3"],
        ["b", "rtn", "3"],
        ["b", "rtn", "4"],
    ]
    cells = dict(zip(head, rows[0], strict=True))
    assert cells["float"] == "80.78"
    assert cells["quantized"] == "80.52"
    assert cells["drop [95 %]"] == "0.26 [−0.17, 0.69]"
    assert cells["agreement"] == "95.42"
    assert cells["KL"] == "0.0187"
    assert cells["SQNR dB"] == "21.4"
    assert cells["loss / OBQ"] == f"{EXAMPLE['loss_ratio_vs_baseline']:.3f}"
    assert cells["solve s"] == f"{sum(layer['seconds'] for layer in EXAMPLE['layers']):.2f}"
    assert cells["speed-up"] == "~311×"


def test_a_measured_speed_up_has_no_tilde_and_a_missing_one_is_a_dash():
    measured = EXAMPLE | {"baseline": EXAMPLE["baseline"] | {"estimated": False}}
    assert table.row(measured)["speed-up"] == "311×"
    assert table.row(EXAMPLE | {"speedup": None, "baseline": None})["speed-up"] == "–"


def test_the_terminal_table_folds_nothing(tmp_path, capsys):
    write(tmp_path / "run", model="a_model_with_quite_a_long_name_of_its_own")
    assert table.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "a_model_with_quite_a_long_name_of_its_own" in out
    assert "0.26 [−0.17, 0.69]" in out


def test_finding_nothing_is_an_error_that_names_the_folders(tmp_path, capsys):
    assert table.main([str(tmp_path)]) == 1
    assert f"no results.json below {tmp_path}" in capsys.readouterr().err
    assert table.main([str(tmp_path / "absent")]) == 1
    assert str(tmp_path / "absent") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model": ', "Expecting value"),
        ("[1]", "no JSON object"),
        ('{"model": "a", "method": "rtn"}', "lacks float, quantized"),
        ('{"model": "a", "method": "rtn", "float": 1, "quantized": {}}', "float must hold"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(tmp_path, capsys, text, reason):
    write(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text(text)
    assert table.main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "bad" / "results.json") in error
    assert reason in error
    assert "good" not in error


def document(folder, *rows):
    """A Markdown file with a table of these runs between other things."""
    text = table.markdown(table.rows([EXAMPLE | row for row in rows])[0])
    other = "| setting | \\|a\\| |\n|---|---|\n| x | y |\n"
    path = folder / "page.md"
    path.write_text(f"# Results\n\n{other}\n{text}\n\n| model | method |\n|---|---|\n| a | b |\n")
    return path


def test_a_document_that_says_what_the_runs_do_has_no_difference(tmp_path, capsys):
    page = document(tmp_path, {"model": "a"}, {"model": "b|c", "method": "rtn"})
    write(tmp_path / "runs" / "0", model="a", speedup=2.0)  # another time on another day
    write(tmp_path / "runs" / "1", model="b|c", method="rtn")
    assert table.main([str(tmp_path / "runs"), "--against", str(page)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 rows in the document, 2 runs: 0 figures differ")


def test_a_difference_is_shown_as_written_and_as_it_is_now(tmp_path, capsys):
    page = document(tmp_path, {"model": "a"}, {"model": "gone"})
    write(tmp_path / "runs" / "0", model="a", quantized={"top1": 12.34})
    write(tmp_path / "runs" / "1", model="new")
    assert table.main([str(tmp_path / "runs"), "--against", str(page)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines] == ["- a", "+ a", "? g", "! n"]
    assert "80.52" in lines[0] and "12.34" in lines[1] and lines[1].endswith("(quantized)")
    assert last.startswith("2 rows in the document, 2 runs: 1 figures differ")


def test_of_two_rows_alike_each_is_compared_with_the_run_that_fits_it_best(tmp_path, capsys):
    twice = [{"model": "a", "loss_ratio_vs_baseline": ratio} for ratio in (0.5, 0.75)]
    page = document(tmp_path, *twice)
    for number, changes in enumerate(reversed(twice)):
        write(tmp_path / "runs" / str(number), **changes)
    assert table.main([str(tmp_path / "runs"), "--against", str(page)]) == 0


def test_a_run_whose_bits_were_searched_says_how_and_what_its_layers_cost(tmp_path, capsys):
    found = {"metric": "inter_layer", "search": "quadratic", "target": 0.999, "evaluations": 26}
    costs = {"size": 0.2327, "bops": 0.0591, "roofline": 0.05231}
    write(tmp_path / "a", weight_bits=2.1, precision=found, costs=costs, device="A100")
    write(tmp_path / "b", weight_bits=4)
    assert table.main([str(tmp_path), "--markdown"]) == 0
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
    ]
    searched, plain = (dict(zip(head, cells, strict=True)) for cells in rows)
    assert searched["search"] == "inter_layer + quadratic, 99.9 % of float"
    assert [searched[c] for c in ("tried", "MB", "GBOPs", "ms, A100")] == [
        "26", "0.233", "0.0591", "0.0523",
    ]  # fmt: skip
    assert plain["search"] == plain["MB"] == "–"
    write(tmp_path / "alone" / "b", weight_bits=4)
    table.main([str(tmp_path / "alone"), "--markdown"])
    assert "search" not in capsys.readouterr().out


def test_settings_that_no_column_shows_have_one_where_runs_differ_in_them(tmp_path, capsys):
    shared = ["method=rtn", "damping=0.1", "pictures.count=1", "hydra.run.dir=x"]
    write(tmp_path / "a", command=[*shared, "method.scope=block"])
    write(tmp_path / "b", command=shared)
    assert table.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    head, _, *rows = [line.split() for line in out.splitlines() if line.strip()]
    assert head[-2:] == ["other", "settings"]
    assert rows[0][-1] == "method.scope=block" and rows[1][-1] == "~311×"
    assert "all with damping=0.1\n" in out and "count" not in out
    assert table.main([str(tmp_path), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| other settings     |") and lines[1].endswith("- |")
    assert lines[2].endswith("| method.scope=block |") and lines[3].endswith(
        "|                    |"
    )
    assert table.main([str(tmp_path / "a")]) == 0
    assert "other settings" not in capsys.readouterr().out


def test_a_document_may_have_the_column_of_other_settings(tmp_path, capsys):
    write(tmp_path / "a", command=["method.scope=block"])
    write(tmp_path / "b", command=[])
    assert table.main([str(tmp_path), "--markdown"]) == 0
    written = tmp_path / "README.md"
    written.write_text(capsys.readouterr().out)
    assert table.main([str(tmp_path), "--against", str(written)]) == 0
