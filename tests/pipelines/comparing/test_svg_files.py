"""Plots of a comparison as files: one per facet and plot, with the names of their series."""

import json
from pathlib import Path
from xml.etree import ElementTree

from pipelines.comparing import __main__ as command

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(EXAMPLE | changes))


def test_each_plot_is_a_file_that_names_its_series(tmp_path, capsys):
    write(tmp_path / "runs" / "one", model="a/b $x", method="rtn")
    write(tmp_path / "runs" / "two", model="a/b $x", method="obq")
    write(tmp_path / "runs" / "three", model="other", method="gptq")
    folder, page = tmp_path / "new" / "plots", tmp_path / "page.html"
    assert command.main([str(tmp_path / "runs"), "--html", str(page), "--plots", str(folder)]) == 0
    files = sorted(folder.iterdir())
    assert set(map(str, files)) < set(capsys.readouterr().out.splitlines())
    bits = {file.name: file for file in files if file.stem.endswith("-bits")}
    data = EXAMPLE["data"]
    assert set(bits) == {f"a_b_x-{data}-bits.svg", f"other-{data}-bits.svg"}
    text = " ".join(ElementTree.parse(bits[f"a_b_x-{data}-bits.svg"]).getroot().itertext())
    assert "rtn" in text and "obq" in text and "gptq" not in text and "float network" in text


def test_facets_with_equal_names_keep_a_file_each(tmp_path):
    write(tmp_path / "runs" / "one", n_images=100)
    write(tmp_path / "runs" / "two", n_images=200)
    folder = tmp_path / "plots"
    page = tmp_path / "page.html"
    assert command.main([str(tmp_path / "runs"), "--html", str(page), "--plots", str(folder)]) == 0
    names = {file.name for file in folder.iterdir()}
    assert {name.removesuffix("-2.svg") for name in names if name.endswith("-2.svg")} == {
        name.removesuffix(".svg") for name in names if not name.endswith("-2.svg")
    }
    assert any(name.endswith("-2.svg") for name in names)
