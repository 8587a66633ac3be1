"""Old names of settings: they work, and a line says the new one."""

from __future__ import annotations

import pytest
import yaml

from pipelines.cli import renamed
from pipelines.cli.overrides import CONF


@pytest.mark.parametrize(
    ("word", "now"),
    [
        ("block=16", "block_size=16"),
        ("+method.block=16", "+method.block_size=16"),
        ("sweeps=0,1,3", "cd_passes=0,1,3"),
        ("precision.changes.images=64", "precision.perturbations.images=64"),
        ("grid.granularity=row", "grid.granularity=channel"),
        ("grid.granularity=choice(columns,tensor)", "grid.granularity=choice(group,tensor)"),
        ("hydra.launcher.at_once=3", "hydra.launcher.n_jobs=3"),
    ],
)
def test_an_old_name_becomes_the_new_one_and_is_told(word, now):
    words, notes = renamed.overrides(["bits=3", word])
    assert words == ["bits=3", now]
    (note,) = notes
    assert word.lstrip("+").split("=")[0].split(".")[0] in note and "is now called" in note


@pytest.mark.parametrize(
    "word", ["bits=3", "-m", "blocks=3", "method.scope=block", "grid.granularity=group", "data=row"]
)
def test_other_words_stay_as_they_are(word):
    assert renamed.overrides([word]) == ([word], [])


def test_every_new_name_is_set_somewhere_and_no_old_one_is():
    """A new name that is nowhere would send users astray, an old one would be set in vain."""
    dotted = {key for path in CONF.rglob("*.yaml") for key in _dotted(path)}
    for old, new in renamed.SETTINGS.items():
        assert any(key == new or key.startswith(f"{new}.") for key in dotted), new
        assert not any(key == old or key.startswith(f"{old}.") for key in dotted), old


def _dotted(path):
    """Names of the settings of a file as they are typed, with its group unless it is global."""
    text = path.read_text()
    group = ".".join(path.relative_to(CONF).parent.parts)
    above = f"{group}." if group and "# @package _global_" not in text else ""
    return [f"{above}{key}" for key in _leaves(yaml.safe_load(text) or {})]


def _leaves(node, above=""):
    for key, value in node.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")


@pytest.mark.parametrize("words", [("block=32", "sweeps=1"), ("block_size=32", "cd_passes=1")])
def test_a_run_with_old_names_is_that_with_new_ones(obliq, words):
    outcome = obliq("bits=3", *words)
    assert outcome.status == 0, outcome.text
    settings = outcome.results["settings"]
    assert (settings["block_size"], settings["method"]["cd_passes"]) == (32, 1)
    assert "block" not in settings
    assert ("block is now called block_size" in outcome.text) == (words[0] == "block=32")


OLD = """# @package _global_
block: 16
grid:
  granularity: columns
  width: 8
"""


def test_an_old_name_in_a_file_of_ones_own_counts_unless_the_new_one_is_typed(obliq, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(OLD)
    own = ("--config-dir", str(tmp_path), "experiment=mine", "model=digits", "data=digits")
    outcome = obliq(*own, "grid.group_size=4")
    assert outcome.status == 0, outcome.text
    settings = outcome.results["settings"]
    assert settings["method"]["block_size"] == settings["block_size"] == 16
    assert settings["grid"]["granularity"] == "group" and settings["grid"]["group_size"] == 4
    assert "width" not in settings["grid"] and "block" not in settings
    assert "grid.width is now called grid.group_size" in outcome.text


def test_a_sweep_file_of_ones_own_may_go_through_old_names(obliq, tmp_path):
    (tmp_path / "sweep").mkdir()
    text = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      block: 16,32\n"
    (tmp_path / "sweep" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    folder = tmp_path / "out"
    own = ("--config-dir", str(tmp_path), "sweep=mine", "model=digits", "data=digits")
    outcome = obliq(*own, f"hydra.sweep.dir={folder}")
    assert outcome.status == 0, outcome.text
    assert "block is now called block_size" in outcome.text
    assert len(list(folder.rglob("results.json"))) == 2
