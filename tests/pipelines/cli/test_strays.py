from __future__ import annotations

import pytest

from pipelines.cli.overrides import CONF
from pipelines.cli.strays import message


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Store", "did you mean obliq store?"),
        ("stor", "did you mean obliq store"),
        ("reports", "did you mean obliq-report"),
        ("obliq-reports", "did you mean obliq-report"),
        ("Table", "did you mean obliq table?"),
        ("reproduced", "did you mean obliq reproduce?"),
        ("help", "put it first, obliq --help"),
        ("store", "'store' is a command: put it first, obliq store ..."),
        ("gptq", "did you mean method=gptq?"),
        ("GPTQ", "did you mean method=gptq?"),
        ("cifar10", "did you mean data=cifar10?"),
        ("cifar10_resnet20", "did you mean experiment=cifar10_resnet20?"),
        ("digits", "did you mean experiment=digits?"),
        ("cpu", "did you mean machine=cpu?"),
        ("resnet50", "experiment=imagenet_resnet50"),
        ("bits", "did you mean bits=VALUE?"),
        ("bit", "did you mean bits=VALUE?"),
        ("block", "did you mean block=VALUE?"),
    ],
)
def test_the_nearest_command_or_setting_is_named(word, expected):
    text = message(word, None, CONF, ["bits", "block", "seed"])
    assert expected in text and "\n" not in text


def test_what_is_like_nothing_gets_the_commands_and_the_form_of_a_setting():
    text = message("foo", None, CONF, ["bits"])
    assert "'foo' is neither a command (export, store, reproduce, table) nor name=value" in text
    assert "obliq --help" in text


def test_a_word_behind_a_value_may_be_the_rest_of_it():
    text = message("2024/val", "data.root=/my/photos", CONF, ["bits"])
    assert 'quote both: "data.root=/my/photos 2024/val"' in text
