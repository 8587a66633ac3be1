"""Settings: the pages have all of them, with their defaults, and no page names one that is gone."""

from __future__ import annotations

import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipelines.cli.overrides import CONF
from tests.docs.blocks import PAGES, ROOT

COMPOSED = (
    (), ("method=gptq",), ("method=obq",), ("model=timm", "model.name=x", "data=imagenet"),
    ("model=yolo", "data=coco"), ("model=transformers", "data=sst2"),
    ("model=espnetv2", "data=voc"),
    ("method=eptq",), ("experiment=eptq_cifar10_resnet20",), ("schedule=cpu",),
    ("precision=mixed",),
    ("objective=kl", "hparams=damping"), ("launcher=joblib",), ("launcher=slurm",),
    ("launcher=ray",),
)  # fmt: skip
# set by choosing a file, or described as a whole: devices, and the methods that EPTQ may start from
APART = ("device.", "inits.", "hydra.", "rounding", "objective")
SETTING = re.compile(r"`([a-z_]+(?:[./][A-Za-z_]+)*)=[^`]*`")


@pytest.fixture(scope="module")
def configurations():
    """Configurations that have all settings between them, as plain dicts; hydra's among them."""
    found = []
    for words in COMPOSED:
        GlobalHydra.instance().clear()
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            chosen = ["model=digits", "data=digits", *words]  # what `obliq` does without a choice
            cfg = compose("run", overrides=chosen, return_hydra_config=True)
        found.append(OmegaConf.to_container(cfg, resolve=False))
    return found


@pytest.fixture(scope="module")
def defaults(configurations):
    """{setting: its default where it first occurs}."""
    found: dict = {}
    for words, configuration in zip(COMPOSED, configurations, strict=True):
        given = {word.split("=")[0] for word in words}
        for name, value in leaves(configuration):
            unset = name.startswith("hydra.") and found.get(name) is None  # until a choice sets it
            if name not in given and (unset or name not in found):
                found[name] = value
    return found


def leaves(node, above=""):
    for key, value in node.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def rows(page):
    """(setting, cells) of the tables whose first column is called Setting."""
    header = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if header is None:
            header = cells
        elif header[0] == "Setting" and not set(cells[0]) <= set("-:"):
            yield cells[0].strip("`"), dict(zip(header, cells, strict=True))


DOCUMENTED = {name: cells for page in PAGES for name, cells in rows(page)}


def test_every_setting_is_on_a_page(defaults):
    assert len(DOCUMENTED) > 90
    absent = [
        name
        for name, value in defaults.items()
        if not name.startswith(APART)
        and "_target_" not in name
        and "_partial_" not in name
        and not str(value).startswith("${")
        and not any(name == known or name.startswith(f"{known}.") for known in DOCUMENTED)
    ]
    assert absent == []


def test_the_pages_name_the_defaults(defaults):
    checked = 0
    for name, cells in DOCUMENTED.items():
        code = re.fullmatch(r"`([^`]+)`", cells.get("Default") or cells.get("`schedule=gpu`", ""))
        value = defaults.get(name, "absent")
        if code is None or "${oc.env" in str(value) or "${now" in str(value) or name == "data.root":
            continue
        alias = re.fullmatch(r"\$\{([\w.]+)\}", str(value))
        expected = alias[1] if alias else value
        assert yaml.safe_load(code[1]) == expected, f"{name}: {code[1]} instead of {expected}"
        checked += 1
    assert checked > 70


def test_a_documented_setting_exists(defaults, configurations):
    gone = [name for name in DOCUMENTED if not exists(name, defaults, configurations)]
    assert gone == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_settings_named_in_the_text_exist(page, defaults, configurations):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if page.name == "log.md":
        return  # a diary: names were as they were
    found = {*SETTING.findall(text)}
    for command in re.findall(r"`obliq ([^`]*)`", text):
        found |= {word.partition("=")[0].lstrip("+") for word in command.split() if "=" in word}
    gone = [name for name in found if not exists(name.strip("'"), defaults, configurations)]
    assert gone == []


def exists(name, defaults, configurations):
    if (CONF / name).is_dir() or name in defaults:
        return True
    if name.isupper():  # NAME=VALUE, or a variable of the environment
        return True
    return any(holds(configuration, name.split(".")) for configuration in configurations)


def holds(node, parts):
    """Whether there is such a setting, or a mapping that takes any name in its place."""
    if not parts:
        return True
    if not isinstance(node, dict):
        return False
    return parts[0] in node and (holds(node[parts[0]], parts[1:]) or node[parts[0]] == {})


def test_a_name_that_is_gone_is_found(defaults, configurations):
    assert exists("precision.overrides.conv1", defaults, configurations)
    assert exists("hydra.launcher.partition", defaults, configurations)
    assert not exists("calibrate.copies", defaults, configurations)
    assert not exists("block", defaults, configurations)
    assert SETTING.findall("`block=32` and `precision.ends_bits=8`, `a = b`") == [
        "block", "precision.ends_bits",
    ]  # fmt: skip
