"""Two networks of one name never share a row or a plot."""

import json
from pathlib import Path

from pipelines.comparing import discovery, facets, table

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())


def write(folder, network):
    folder.mkdir(parents=True)
    prints = {"network": network} if network else {}
    (folder / "results.json").write_text(json.dumps(EXAMPLE | {"fingerprints": prints}))


def test_networks_of_one_name_are_told_apart_by_their_fingerprints(tmp_path):
    write(tmp_path / "a", "aaaaaaaaaa")
    write(tmp_path / "b", "bbbbbbbbbb")
    name = EXAMPLE["model"]
    models = [facet.model for facet in facets.split(discovery.find([tmp_path]))]
    assert models == [f"{name} #aaaaaa", f"{name} #bbbbbb"]
    rows, _ = table.rows(table.collect([tmp_path]))
    assert [row["model"] for row in rows] == models


def test_one_network_keeps_its_name_and_so_do_results_without_fingerprints(tmp_path):
    for folder, network in (("a", "same"), ("b", "same"), ("c", "")):
        write(tmp_path / folder, network)
    assert {run.results["model"] for run in discovery.find([tmp_path])} == {EXAMPLE["model"]}
