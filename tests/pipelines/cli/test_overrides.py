from __future__ import annotations

import pytest

from pipelines.cli import overrides
from pipelines.cli.overrides import CONF, check

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(
    "line",
    [
        "bits=3",
        "experiment=digits method=rtn,gptq bits=2,3 -m",
        "'method=choice(rtn,gptq)' --multirun",
        "method@baseline.solve.method=gptq",
        "data.root=/a=b/c",
        "+data.new=1",
        "~tags",
        "hydra.run.dir=/x",
        "hydra/launcher=joblib",
        "experiment=",
        "--cfg job",
        "--info plugins",
        "--help",
        "--config-dir mine method=my_own",
        "precision.overrides.conv1=8",
    ],
)
def test_a_valid_line_passes(line):
    check([word.strip("'") for word in line.split()])


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("model=cifar10_resnet21", "did you mean cifar10_resnet20"),
        ("method=row_paralel", "did you mean row_parallel"),
        ("method=rtn,gtpq", "did you mean gptq"),
        ("experiment=imagenet_resnet5", "did you mean imagenet_resnet50"),
        ("data=cifar", "did you mean cifar10"),
        ("bit=3", "did you mean bits"),
        ("modl.name=resnet50", "did you mean model"),
        ("+experimnt=digits", "did you mean experiment"),
        ("model=resnet50", "model=timm model.name=NAME"),
    ],
)
def test_an_unknown_name_gets_the_nearest_valid_one(word, nearest):
    with pytest.raises(ValueError, match="unknown") as caught:
        check([word])
    assert nearest in str(caught.value)


def test_all_valid_names_are_listed():
    with pytest.raises(ValueError, match=", ".join(EXPERIMENTS)):
        check(["experiment=nothing_like_it"])


def test_a_word_without_a_value_says_how_it_is_meant():
    with pytest.raises(ValueError, match=r"'cifar10' is no setting: give name=value"):
        check(["cifar10"])


def test_a_missing_value_is_explained_by_the_file_that_wants_it():
    text = overrides.missing("model.name")
    assert "model.name=VALUE" in text and "model=timm model.name=resnet50" in text
