"""The files of conf/sweep/ and conf/hparams/."""

from __future__ import annotations

import itertools

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pipelines.cli.overrides import CONF
from pipelines.run import _is_sweep

SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
SEARCHES = sorted(path.stem for path in (CONF / "hparams").glob("*.yaml"))
MAKEFILE = (CONF.parent / "Makefile").read_text()


def composed(*words):
    chosen = [] if any(word.startswith("experiment=") for word in words) else ["experiment=digits"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("run", overrides=[*chosen, *words], return_hydra_config=True)


def jobs_of(name):
    """The words of all jobs of a sweep."""
    params = composed(f"sweep={name}").hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    lists = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line]
        for o in parsed
    ]
    return [list(words) for words in itertools.product(*lists)]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_needs_no_option_and_its_folder_is_its_name(name):
    cfg = composed(f"sweep={name}")
    HydraConfig.instance().set_config(cfg)
    assert _is_sweep()
    assert cfg.hydra.sweep.dir == f"outputs/sweeps/{name}", "its last part is W&B's group"


@pytest.mark.parametrize("name", SWEEPS)
def test_the_jobs_of_a_sweep_compose_and_have_folders_that_say_what_they_are(name):
    jobs = jobs_of(name)
    assert 3 <= len(jobs) <= 48
    folders = set()
    for words in (jobs[0], jobs[-1]):
        cfg = composed(f"sweep={name}", *words)
        with_words = OmegaConf.select(cfg, "hydra.sweep.subdir")
        assert all(word in with_words for word in words), with_words
        assert "sweep=" not in with_words and "/" not in with_words and len(with_words) < 200
        folders.add(with_words)
        chosen = dict(word.split("=", 1) for word in words)
        assert cfg.hydra.runtime.choices.experiment == chosen["experiment"]
        assert str(cfg.bits) == chosen.get("bits", str(cfg.bits))
        own = OmegaConf.load(CONF / "sweep" / f"{name}.yaml")
        for key in ("baseline.budget", "quantize.inputs"):
            if OmegaConf.select(own, key) is not None:
                assert OmegaConf.select(cfg, key) == OmegaConf.select(own, key)
    assert len(folders) == 2


def test_a_search_begins_with_the_defaults_also_where_they_are_left_open():
    from hydra_plugins.obliq_optuna_sweeper import _default

    open_one = composed("hparams=images", "experiment=cifar10_resnet20")
    assert open_one.calibrate.images is None and _default(open_one, "calibrate.images") == 1024
    assert _default(composed("hparams=images"), "calibrate.images") == 512  # experiment=digits
    assert _default(open_one, "act_bits") is None


def test_make_bench_real_runs_files_that_exist():
    listed = next(line for line in MAKEFILE.splitlines() if line.startswith("SWEEPS := "))
    assert set(listed.split()[2:]) <= set(SWEEPS) and len(listed.split()) > 8


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_judges_by_calibration_images_and_over_settings_that_exist(name):
    cfg = composed(f"hparams={name}")
    HydraConfig.instance().set_config(cfg)
    assert _is_sweep()
    assert cfg.objective._target_ == "pipelines.stages.objective.Divergence"
    assert cfg.hydra.sweeper._target_.endswith("OptunaSweeper") and cfg.hydra.sweeper.params
    for key in cfg.hydra.sweeper.params:
        parent, _, last = key.rpartition(".")
        assert last in (OmegaConf.select(cfg, parent) if parent else cfg), key
