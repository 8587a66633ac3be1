"""What tells runs apart: settings that their figures follow from, and nothing else."""

import json
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipelines.comparing import __main__ as command
from pipelines.comparing import differing, discovery, facets

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
CONF = Path(__file__).parents[3] / "conf"
ELSEWHERE = ("launcher=", "hydra.", "hydra/", "sweep=", "hparams=")  # in no settings of a run


@cache
def settings(words):
    """What a run with these words records as its settings."""
    own = [word for word in words if not word.startswith(ELSEWHERE)]
    chosen = {word.split("=")[0] for word in own}
    if "experiment" not in chosen:
        own += [f"{group}=digits" for group in ("model", "data") if group not in chosen]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = OmegaConf.to_container(compose("run", ["data.root=x", *own]), resolve=True)
    return {key: value for key, value in found.items() if key != "tracking"}


def run(*words, **changes):
    """results.json of the digits network with these words."""
    found = settings(words)
    choices = dict(word.split("=", 1) for word in words)
    about = {
        "model": "digits",
        "data": "digits",
        "method": choices.get("method", "row_parallel"),
        "inputs": found["quantize"]["inputs"],
        "weight_bits": found["bits"],
        "act_bits": found["act_bits"],
        "seed": found["seed"],
        "command": list(words),
        "settings": found,
        "layers": [],
        "fingerprints": {"network": "a", "calibration": "b", "evaluation": "c", "weights": "d"},
    }
    return EXAMPLE | about | changes


def edited(words, path, value, **changes):
    """The same, but an experiment has set something that nobody typed."""
    results = json.loads(json.dumps(run(*words, **changes)))
    *above, last = path.split(".")
    section = results["settings"]
    for name in above:
        section = section[name]
    section[last] = value
    return results


NO_FIGURE = [
    "launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/launcher=joblib", "sweep=mixed",
    "tracking=none", "tags=[paper]", "machine.threads=1", "machine=cpu",
    "pictures.count=0", "report.heatmaps=1", "baseline.budget=1", "data.workers=2",
    "data.batch_size=7", "schedule=cpu", "cpu_steps=20", "block_size=64", "damping=0.01",
    "damping=1e-2",
    "sensitivity.predict_bits=[2]",
]  # fmt: skip


@pytest.mark.parametrize("word", NO_FIGURE)
def test_what_no_figure_follows_from_is_not_told(word):
    assert differing.split([run(word), run()]) == ([], [[], []])


def test_nor_where_all_runs_were_given_it():
    words = [word for word in NO_FIGURE if not word.startswith(("block", "damping", "machine="))]
    assert differing.split([run(*words), run(*words, "method=rtn")]) == ([], [[], []])


@pytest.mark.parametrize(
    "word",
    ["block_size=32", "damping=0.1", "calibrate.images=256", "grid.search=minmax", "device=h200",
     "method.order=natural", "precision.first_last_bits=8", "batchnorm=none",
     "grid.granularity=tensor", "quantize.cache_gb=1.0", "activations.percentile=99.0"],
)  # fmt: skip
def test_what_a_stage_follows_is_told(word):
    assert differing.split([run(word), run()]) == ([], [[word], []])
    assert differing.split([run(word), run(word, seed=1)]) == ([word], [[], []])


def test_a_setting_of_row_parallel_is_told_of_row_parallel_alone():
    runs = [
        run(f"method={m}", f"block_size={b}") for b in (16, 32) for m in ("row_parallel", "rtn")
    ]
    assert differing.split(runs) == ([], [["block_size=16"], [], ["block_size=32"], []])


def test_a_schedule_is_told_where_something_is_trained_by_it():
    eptq = ("method=eptq", "schedule=cpu")
    runs = [run(*eptq, "cpu_steps=20"), run("method=rtn"), run("method=gptq", "schedule=cpu")]
    assert differing.split(runs)[1] == [["cpu_steps=20", "schedule=cpu"], [], []]


def test_a_difference_that_nobody_typed_is_told_where_names_would_be_the_same():
    runs = [edited((), "calibrate.images", count) for count in (1024, 256)]
    assert differing.split(runs)[1] == [["calibrate.images=1024"], ["calibrate.images=256"]]
    damped = edited((), "quantize.solve.damping", 0.1)
    damped["settings"]["damping"] = damped["settings"]["sensitivity"]["damping"] = 0.1
    assert differing.split([run(), damped])[1] == [["damping=0.01"], ["damping=0.1"]]
    other = edited((), "calibrate.images", 256, method="rtn")
    assert differing.split([run(), other])[1] == [[], []], "the method tells them apart"


def test_bits_and_seeds_make_no_other_name():
    runs = [run("bits=2"), run("bits=3", "seed=1"), run("bits=4", "seed=2"), run("act_bits=8")]
    assert differing.split(runs) == ([], [[], [], [], []])


def test_settings_of_the_data_are_told_where_the_float_network_does_not_reach_the_same():
    runs = [run("data.batch_size=7"), run()]
    assert differing.split(runs)[1] == [[], []]
    runs[0] |= {"float": {"top1": 1.0}}
    assert differing.split(runs)[1] == [["data.batch_size=7"], []]


def test_every_stage_is_one_that_is_told_or_moves_no_figure_of_the_method():
    from pipelines.chain import Chain

    told = {*differing.STAGES, *differing.DATA}
    aside = {"sensitivity", "baseline", "pictures", "report", "objective"}
    assert told | aside == {field.name for field in fields(Chain)} and not told & aside


def test_captions_and_names_of_series_hold_no_launcher_and_differ(tmp_path, capsys):
    for number, words in enumerate(
        [("launcher=joblib", "block_size=32"), ("block_size=16",), (),
         ("launcher=joblib", "bits=3"),
         ("machine.threads=1", "launcher=joblib", "damping=0.1", "tags=[a]")]
    ):  # fmt: skip
        folder = tmp_path / "runs" / str(number)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(run(*words)))
    (facet,) = facets.split(discovery.find([tmp_path / "runs"]))
    assert sorted(facet.series) == sorted(
        f"row_parallel{more}"
        for more in ("", ", block_size=16", ", block_size=32", ", damping=0.1")
    )
    names = {kind: tmp_path / kind for kind in ("html", "markdown", "csv", "latex")}
    words = [word for kind, path in names.items() for word in (f"--{kind}", str(path))]
    assert command.main([str(tmp_path / "runs"), *words]) == 0
    for path in names.values():
        text = path.read_text()
        assert "block_size=32" in text.replace("\\_", "_"), path  # LaTeX escapes it
        assert not any(word in text for word in ("launcher", "threads=", "tags=")), path
