from __future__ import annotations

import pytest

from pipelines.cli.options import named, separate


@pytest.mark.parametrize(
    ("line", "options", "settings"),
    [
        ("-m bits=2,3 seed=1", ["--multirun"], ["bits=2,3", "seed=1"]),
        ("bits=2,3 -m seed=1", ["--multirun"], ["bits=2,3", "seed=1"]),
        ("bits=2,3 seed=1 --multirun", ["--multirun"], ["bits=2,3", "seed=1"]),
        ("bits=2,3 --multi", ["--multirun"], ["bits=2,3"]),
        ("bits=3 --cfg job -p model", ["--cfg=job", "--package=model"], ["bits=3"]),
        ("bits=3 -c job", ["--cfg=job"], ["bits=3"]),
        ("method=x -cd mine bits=3", ["--config-dir=mine"], ["method=x", "bits=3"]),
        ("method=x --config-dir=a=b", ["--config-dir=a=b"], ["method=x"]),
        ("bits=3 --info", ["--info=all"], ["bits=3"]),
        ("--info bits=3", ["--info=all"], ["bits=3"]),
        ("--info defaults-tree bits=3", ["--info=defaults-tree"], ["bits=3"]),
        ("~tags bits=-1", [], ["~tags", "bits=-1"]),
        ("", [], []),
    ],
)
def test_options_are_found_wherever_they_stand(line, options, settings):
    assert separate(line.split()) == (options, settings)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--bits=3", "Settings have no dashes: bits=3"),
        ("--data.root=/x", "Settings have no dashes: data.root=/x"),
        ("--multrun", "did you mean --multirun?"),
        ("--verison", "did you mean --version?"),
        ("-x", "unknown option -x. Options: --help"),
        ("--con x", "unknown option --con"),  # three begin like this
        ("bits=3 --config-dir", "--config-dir needs a value"),
    ],
)
def test_a_wrong_option_gets_the_right_one(line, expected):
    with pytest.raises(ValueError, match=expected):
        separate(line.split())


def test_an_option_is_known_by_its_name_whatever_its_value():
    assert named(["--multirun", "--config-dir=x"], "--config-dir", "--config-name")
    assert not named(["--multirun", "--cfg=--config-dir"], "--config-dir")
