from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipelines.cli import layer_bits
from pipelines.cli.overrides import CONF


def settings(*words):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("run", ["experiment=digits", *layer_bits.force_added(words)])
    return layer_bits.flat(OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize("group", ["precision", "activations"])
def test_names_of_layers_may_have_dots_and_numbers(group):
    found = settings(
        f"{group}.overrides.layer1.0.conv1=8",
        f"{group}.overrides.layer1.1.conv1=4",
        f"{group}.overrides.conv1=6",
        f"{group}.overrides.layer1.0.conv1=5",  # the last one counts
    )
    assert found[group]["overrides"] == {
        "layer1.0.conv1": 5,
        "layer1.1.conv1": 4,
        "conv1": 6,
    }


def test_a_mapping_says_the_same_and_both_may_be_mixed():
    assert settings("precision.overrides={a.0: 8, b: 4}", "precision.overrides.a.1=3")["precision"][
        "overrides"
    ] == {"a.0": 8, "b": 4, "a.1": 3}


def test_words_in_the_form_that_adds_are_left_alone():
    words = ["+precision.overrides.a=8", "++activations.overrides.b=4", "bits=3", "hydra.x=1"]
    assert layer_bits.force_added(words) == words


def test_what_is_no_mapping_of_layers_stays():
    given = {"bits": 3, "rounding": None, "x": {"overrides": None}, "y": {"z": {"overrides": {}}}}
    assert layer_bits.flat(given) == given
