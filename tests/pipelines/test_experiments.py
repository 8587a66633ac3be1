from __future__ import annotations

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from pipelines.chain import Chain
from pipelines.cli import typecheck
from pipelines.cli.overrides import CONF

NAMES = {group.name: sorted(p.stem for p in group.glob("*.yaml")) for group in CONF.iterdir()
         if group.is_dir()}  # fmt: skip
HOOKED = {  # groups that run.yaml chooses from; the others wait for a stage that asks for them
    group
    for choice in OmegaConf.load(CONF / "run.yaml").defaults
    if isinstance(choice, DictConfig)
    for group in choice
}
WANTED = {
    "digits", "cifar10_resnet20", "cifar10_resnet56", "imagenet_mobilenet_v1",
    "imagenet_mobilenet_v2", "imagenet_resnet18", "imagenet_resnet50", "imagenet_vit_small",
    "coco_yolov5n", "coco_yolov5s", "coco_yolov8n",
    "voc_deeplabv3_mobilenet_v2", "voc_espnetv2", "sst2_bert",
}  # fmt: skip


def built(*words):
    groups = {word.split("=")[0] for word in words}
    if "experiment" not in groups:
        words = (*(f"{group}=digits" for group in ("model", "data") if group not in groups), *words)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("run", overrides=list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    settings = OmegaConf.to_container(cfg, resolve=False)
    settings.pop("hydra")
    plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
    typecheck.check(plain)
    chain = Chain(**{x: instantiate(cfg[x], _convert_="all") for x in Chain.__dataclass_fields__})
    return plain, chain, instantiate(cfg.machine), instantiate(cfg.tracking)


def test_the_promised_experiments_are_there():
    assert set(NAMES["experiment"]) >= WANTED


@pytest.mark.parametrize("name", NAMES["experiment"])
def test_an_experiment_composes_and_builds_its_stages(name):
    plain, chain, *_ = built(f"experiment={name}")
    assert chain.quantize.solve.damping == chain.sensitivity.damping == plain["damping"]
    assert chain.baseline.solve.fit_grid.keywords == chain.quantize.solve.fit_grid.keywords
    assert chain.calibrate.images == plain["calibrate"]["images"]


@pytest.mark.parametrize(
    "word",
    [
        f"{'' if group in HOOKED else '+'}{group}={name}"
        for group, names in NAMES.items()
        if group != "experiment"
        for name in names
        if name != "timm"
    ],
)
def test_every_choice_of_every_group_builds(word):
    built(word)


def test_the_baseline_is_obq_whatever_the_method():
    _, chain, *_ = built("method=rtn")
    assert chain.baseline.solve.method.func.__module__ == "quant.methods.obq"
    assert chain.quantize.solve.method.func.__module__ == "quant.methods.rtn"


def test_obq_with_its_authors_damping_is_the_same_stage_as_the_baseline():
    _, chain, *_ = built("method=obq")
    assert chain.baseline.solve.damping == 0 < chain.quantize.solve.damping
    from pipelines.store import fingerprint
    from pipelines.store.artifacts import Keyed

    stages = chain.baseline.solve, replace(chain.quantize.solve, damping=0)
    assert len({fingerprint.key(stage, [Keyed(None, "layer")]) for stage in stages}) == 1
