from __future__ import annotations

import json

import pytest

from pipelines.cli import command_line


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setenv(command_line.GIVEN, "[]")


def read(*words):
    return command_line.read(words, fault, print)


def fault(word):
    return "no" if "(" in word and "'" not in word else None


def test_former_names_become_those_of_today_and_are_told(capsys):
    assert read("experiment=digits", "precision.overrides.a.b=4", "block=16")[1:] == [
        "++precision.overrides.a.b=4",
        "block_size=16",
    ]
    assert capsys.readouterr().out == "block is now called block_size\n"
    assert command_line.given()[-1] == "block_size=16"


def test_from_what_is_typed_to_what_hydra_gets():
    words = read("bits=2,3", "-m", "tracking.notes=why (2)", "precision.overrides.stem.0=8")
    settings = ["bits=2,3", "tracking.notes='why (2)'", "++precision.overrides.stem.0=8"]
    assert words == ["--multirun", "model=digits", "data=digits", *settings]
    assert command_line.given() == settings, "without what nobody has typed"


def test_all_of_the_help_is_hydras():
    assert read("--help-all", "experiment=digits") == ["--help", "experiment=digits"]


def test_settings_of_ones_own_may_choose_model_and_data():
    own = ["--config-dir=mine"]
    assert read("-cd", "mine", "study=big") == [*own, "study=big"]
    assert read("-cd", "mine", "method=own") == [*own, "model=digits", "data=digits", "method=own"]


def test_a_configuration_in_the_place_of_ours_chooses_itself(tmp_path):
    for option in ("--config-name=mine", "--config-path=mine"):
        assert read(option, "bits=3") == [option, "bits=3"]
    option = f"--config-dir={tmp_path}"
    assert "model=digits" in read(option, "bits=3")
    (tmp_path / "run.yaml").write_text("defaults: [/model: mine]")
    assert read(option, "bits=3") == [option, "bits=3"]


def test_words_of_shell_completion_are_hydras():
    assert read("-sc", "install=bash") == ["--shell-completion", "install=bash"]


def test_a_secret_is_refused_and_not_kept():
    with pytest.raises(ValueError, match="WANDB_API_KEY"):
        read("tracking.api_key=abcdefgh12345678")
    assert json.loads(command_line.os.environ[command_line.GIVEN]) == []
