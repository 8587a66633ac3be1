"""A search over settings, on functions whose minimum is known."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from pipelines.machine.screen import Screen
from pipelines.sweeps.study import Range, Search
from pipelines.sweeps.study_table import ranked, show, write

pytest.importorskip("optuna", reason="the extra obliq[optuna] is not installed")

DAMPING = Range(1e-4, 1e-1, log=True, step=None, whole=False)
SPACE = {"damping": DAMPING, "block_size": (16, 64, 256)}
DEFAULTS = {"damping": 0.01, "block_size": 64}


def bowl(settings):
    """Least, 0, at damping = 0.001 and block = 256."""
    return math.log10(settings["damping"] / 1e-3) ** 2 + (settings["block_size"] != 256)


def searched(trials=24, seed=0, batch=4, measure=bowl, space=SPACE, defaults=DEFAULTS):
    batches = []

    def all_of(batch):
        batches.append(batch)
        return [measure(settings) for settings in batch]

    return Search(trials, 8, batch, seed).run(space, defaults, all_of), batches


def test_a_search_finds_what_is_best_and_starts_with_the_defaults():
    trials, batches = searched()
    assert [len(batch) for batch in batches] == [4] * 6
    assert trials[0].settings == DEFAULTS and trials[0].value == bowl(DEFAULTS) == 2
    best = ranked(trials)[0]
    assert best.settings["block_size"] == 256 and best.value < 0.1
    late = [trial.value for trial in trials[12:]]
    assert sum(late) / len(late) < 0.6 * sum(t.value for t in trials[1:8]) / 7, "it learns"


def test_settings_are_drawn_from_their_whole_range_and_never_from_outside():
    space = {
        "damping": DAMPING,
        "images": Range(256, 1024, log=False, step=256, whole=True),
        "bits": Range(2, 4, log=False, step=None, whole=True),
    }
    trials, _ = searched(40, space=space, defaults={}, measure=lambda s: s["damping"])
    assert {t.settings["images"] for t in trials} == {256, 512, 768, 1024}
    assert {t.settings["bits"] for t in trials} == {2, 3, 4}
    drawn = [t.settings["damping"] for t in trials]
    assert 1e-4 <= min(drawn) < 1e-3 and 1e-2 < max(drawn) <= 1e-1


def test_the_same_seed_asks_the_same_questions_and_another_one_does_not():
    first, second = (searched()[0] for _ in range(2))
    assert [t.settings for t in first] == [t.settings for t in second]
    assert [t.settings for t in first] != [t.settings for t in searched(seed=7)[0]]
    longer, _ = searched(trials=28)
    assert [t.settings for t in longer[:24]] == [t.settings for t in first], "it goes on from there"


def test_a_trial_that_failed_does_not_end_the_search_and_is_never_the_best():
    trials, _ = searched(measure=lambda s: None if s["block_size"] == 256 else bowl(s))
    assert any(t.value is None for t in trials) and len(trials) == 24
    assert ranked(trials)[0].settings["block_size"] != 256
    trials, _ = searched(4, measure=lambda s: math.nan)
    assert [t.value for t in trials] == [None] * 4


def test_defaults_outside_the_space_are_not_tried():
    trials, _ = searched(defaults={"damping": 0.5, "block_size": 64})
    assert trials[0].settings["damping"] <= 0.1


@pytest.mark.parametrize("name", ["trials", "startup", "batch"])
def test_numbers_below_1_are_refused(name):
    with pytest.raises(ValueError, match=r"hydra\.sweeper\..*=0 must be"):
        Search(**{"trials": 4, "startup": 2, "batch": 2, "seed": 0, name: 0})
    with pytest.raises(ValueError, match="nothing to search"):
        Search(4, 2, 2, 0).run({}, {}, lambda batch: [0.0] * len(batch))


def test_the_table_names_the_best_settings_and_the_defaults(tmp_path):
    trials, _ = searched()
    write(trials, {"seed": 0}, tmp_path / "study.json")
    record = json.loads((tmp_path / "study.json").read_text())
    best = ranked(trials)[0]
    assert record["best"] == best.settings and record["value"] == best.value
    assert [row["value"] for row in record["trials"]] == [t.value for t in trials]
    out = io.StringIO()
    show(trials, tmp_path / "study.json", Screen(Console(file=out, width=120)), rows=3)
    text = out.getvalue()
    assert f"best of 24: damping={best.settings['damping']:.4g} block_size=256" in text
    rows = [
        line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()
    ]
    assert [int(row[0]) for row in rows] == [*(t.number for t in ranked(trials)[:3]), 0]
