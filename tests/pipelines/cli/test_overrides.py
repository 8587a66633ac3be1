from __future__ import annotations

import pytest

from pipelines.cli import overrides
from pipelines.cli.overrides import CONF, check

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(
    "line",
    [
        "bits=3",
        "experiment=digits method=rtn,gptq bits=2,3",
        "'method=choice(rtn,gptq)'",
        "method@baseline.solve.method=gptq",
        "data.root=/a=b/c",
        "+data.new=1",
        "~tags",
        "hydra.run.dir=/x",
        "hydra/launcher=joblib",
        "experiment=",
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


def test_names_that_other_settings_bring_in_are_left_to_them():
    check(["method=my_own", "+mine=yes"], more=True)
    with pytest.raises(ValueError, match="unknown method 'my_own'"):
        check(["method=my_own"])
    with pytest.raises(ValueError, match="'nothing_like_it' is neither"):
        check(["nothing_like_it"], more=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ambiguous value for argument 'bits=2,3'\n1. To use", 'for one list "bits=[2,3]"'),
        ("Ambiguous value for argument 'tags=a,b'\n1. To use", "for one text \"tags='a,b'\""),
        ("Sweep parameters 'bits=range(2,4)' requires --multirun", "value add -m, for one text"),
    ],
)
def test_several_values_of_one_run_are_told_with_what_to_type(text, expected):
    assert expected in overrides.several(text)


def test_other_errors_are_not_about_several_values():
    assert overrides.several("Could not find 'method/x'") is None


def test_a_missing_value_is_explained_by_the_file_that_wants_it():
    text = overrides.missing("model.name")
    assert "model.name=VALUE" in text and "model=timm model.name=resnet50" in text
