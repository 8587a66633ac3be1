from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli.choices import completed, missing, nothing_chosen
from pipelines.cli.overrides import CONF

HYDRA = "You must specify '{}', e.g, {}=<OPTION>\nAvailable options:\n\tfirst\n\tsecond"


def asks_for(group):
    return HYDRA.format(group, group)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "model=digits data=digits"),
        ("bits=3 method=rtn,gptq", "model=digits data=digits bits=3 method=rtn,gptq"),
        ("data.images=50 model.train.epochs=3", None),
        ("data.root=null", None),
        ("hparams=damping", None),
    ],
)
def test_where_nothing_is_chosen_the_example_runs(line, expected):
    given = line.split()
    assert nothing_chosen(given)
    assert completed(given, CONF) == (expected or f"model=digits data=digits {line}").split()


def test_the_two_halves_of_the_example_go_together():
    assert completed(["model=digits"], CONF) == ["data=digits", "model=digits"]
    assert completed(["bits=3", "data=digits"], CONF) == ["model=digits", "bits=3", "data=digits"]


@pytest.mark.parametrize(
    "line",
    [
        "data=imagenet data.root=/x",
        "model=timm model.name=resnet18",
        "model=digits,cifar10_resnet20",
        "model=digits data=cifar10",
        "experiment=digits",
        "experiment=mine data.root=/x",
        "sweep=voc",
    ],
)
def test_where_something_is_chosen_nothing_is_added(line):
    assert completed(line.split(), CONF) == line.split()
    assert not nothing_chosen(line.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "data.root=/photos",
            "no data= is. Choose data= from cifar10, coco, imagefolder, imagenet, sst2, voc",
        ),
        ("data.calibration_root=/my/photos", "no data= is"),
        ("+data.root=/my/photos", "no data= is"),
        ("data=digits data.root=/my/photos", "data.root is given, but data=digits has none"),
        ("model=digits data.root=/my/photos", "no data= is"),
        ("model.name=resnet50", "no model= is. Choose model= from cifar10_resnet20"),
        ("model.name=resnet50", "timm, transformers, yolo, yolov5n, yolov5s, yolov8n"),
        ("model.checkpoint=my.pt", "no model= is"),
        ("model.build.n=3", "no model= is"),
        (
            "data.classes=10",
            "data.classes is given, but no data= is. Choose data= from imagefolder, imagenet, sst2",
        ),
    ],
)
def test_a_setting_of_something_else_than_the_example_asks_for_the_choice(line, expected):
    with pytest.raises(ValueError, match="Choose") as caught:
        completed(line.split(), CONF)
    assert expected in str(caught.value)


def test_a_misspelt_setting_is_left_to_those_who_name_the_nearest():
    assert completed(["data.rot=/x"], CONF)[-1] == "data.rot=/x"


@pytest.mark.parametrize(
    ("group", "line", "expected"),
    [
        (
            "model",
            "data=imagenet data.root=/x",
            "which model? data=imagenet is given, but no",
        ),
        ("model", "data=imagenet", "take model=mobilenet_v1, model=mobilenet_v2, model=timm"),
        ("model", "data=imagenet", "model=timm model.name=NAME"),
        ("model", "data=imagenet", "Choose one of first, second, or both at once"),
        ("model", "data=imagenet", "as experiment=imagenet_mobilenet_v1 does"),
        ("model", "data=coco", "take model=yolov5n, model=yolov5s, model=yolov8n"),
        ("model", "data=voc", "take model=deeplabv3_mobilenet_v2, model=espnetv2"),
        ("model", "data=sst2", "take model=sst2_bert"),
        ("model", "data=cifar10", "take model=cifar10_resnet20, model=cifar10_resnet56"),
        ("model", "data=coco,voc", "model=yolov8n, model=deeplabv3_mobilenet_v2"),
        ("data", "model=timm", "which data set? model=timm is given, but no data="),
        ("data", "model=timm", "take data=imagenet"),
        ("data", "model=transformers", "Choose one of first, second"),
        ("model", "experiment=mine", "experiment=mine is given, but no model="),
    ],
)
def test_the_missing_choice_is_named_with_what_fits(group, line, expected):
    assert expected in missing(asks_for(group), line.split(), CONF)


def test_other_errors_are_not_about_a_missing_choice():
    assert missing("Could not find 'model/x'", ["model=x"], CONF) is None
    assert missing("You must specify 'cost', e.g, cost=<OPTION>\n\tbops", [], CONF) is None


def test_what_fits_is_read_from_the_experiments(tmp_path):
    for group in ("experiment", "model", "data"):
        (tmp_path / group).mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "defaults:\n  - override /model: net\n  - override /data: photos\n"
    )
    Path(tmp_path / "model" / "net.yaml").write_text("file: ???\nsize: 3\n")
    text = missing(asks_for("model"), ["data=photos"], tmp_path)
    assert "Experiments with data=photos take model=net model.file=NAME." in text
    assert "as experiment=mine does" in text
