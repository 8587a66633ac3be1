from __future__ import annotations

import pytest

from pipelines.cli import naming

PLAIN = {"bits": 4, "act_bits": None, "seed": 0, "precision": {}, "rounding": None}
CHOICES = {"model": "resnet18", "data": "imagenet", "method": "gptq", "experiment": None}


def test_a_name_says_what_and_how():
    assert naming.name(PLAIN, CHOICES) == "resnet18-imagenet-gptq-w4"
    more = PLAIN | {"act_bits": 8, "seed": 3}
    named = CHOICES | {"experiment": "mine", "method": "rtn"}
    assert naming.name(more, named) == "mine-rtn-w4a8-s3"
    same = CHOICES | {"model": "digits", "data": "digits"}
    assert naming.name(PLAIN | {"precision": {"target": 0.999}}, same) == "digits-gptq-mixed99.9"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "ptq"),
        ({"rounding": {"steps": 1}}, "eptq"),
        ({"precision": {"target": 0.99}}, "mixed"),
        ({"precision": {"target": 0.99}, "rounding": {"steps": 1}}, "mixed"),
    ],
)
def test_the_job_type_is_the_kind_of_run(change, kind):
    assert naming.job_type(PLAIN | change) == kind


@pytest.mark.parametrize(
    ("given", "words", "expected"),
    [
        ("-m bits=2,3 damping=0.1,0.2", "bits=3 damping=0.2", ["damping=0.2"]),
        ("-m experiment=a,b seed=0,1", "experiment=b seed=1", []),
        ("-m model=a,b", "model=a", []),
        ("-m block_size=choice(32,64) cd_passes=3", "block_size=32 cd_passes=3", ["block_size=32"]),
        ("-m +x.y=range(1,3)", "+x.y=2", ["+x.y=2"]),
        ("-m tags=[a,b] bits=2,3", "tags=[a,b] bits=2", []),
        ("-m grid=[a,b],[c]", "grid=[c]", ["grid=[c]"]),
        ("-m note='a,b'", "note='a,b'", []),
    ],
)
def test_a_job_of_a_sweep_is_named_by_what_is_swept(given, words, expected):
    assert naming.swept(given.split(), words.split(), CHOICES) == expected


def test_a_swept_model_of_an_experiment_is_named():
    named = CHOICES | {"experiment": "mine"}
    assert naming.swept(["model=a,b"], ["model=b"], named) == ["model=b"]
