"""From the words as typed to those that Hydra gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.cli import choices, layer_bits, options, overrides, quoting, renamed, secrets
from pipelines.cli.quoting import Fault

CONF: Path = overrides.CONF
GIVEN = "OBLIQ_GIVEN"  # environment: the settings as typed, for jobs in other processes


def given() -> list[str]:
    """The settings that were typed, in whichever process of the run."""
    found: list[str] = json.loads(os.environ.get(GIVEN, "[]"))
    return found


def read(words: Sequence[str], fault: Fault, say: Callable[[str], None]) -> list[str]:
    """All words for Hydra; `given` knows the settings from now on.

    Args:
        words: behind the name of the program.
        fault: what Hydra's grammar finds wrong with a setting.
        say: told of each setting that has another name now.

    Raises:
        ValueError: a word cannot be meant like this; says what to type.
    """
    front, settings = options.apart(words)
    if options.named(front, "--shell-completion"):  # with install=bash and the like
        return [*front, *settings]
    more = options.named(front, *options.CONFIG)
    secrets.check_words(words)
    settings, notes = renamed.words(settings)
    for note in notes:
        say(note)
    overrides.check(settings, more)
    settings = layer_bits.added(quoting.quoted(settings, fault))
    os.environ[GIVEN] = json.dumps(settings)
    front = ["--help" if option == "--help-all" else option for option in front]
    if not (more and _chosen_elsewhere(front, settings)):
        settings = choices.completed(settings, CONF)
    return [*front, *settings]


def _chosen_elsewhere(front: Sequence[str], settings: Sequence[str]) -> bool:
    """Whether files that options bring in may choose model and data.

    They do so in a configuration that takes the place of conf/run.yaml, or in a group that is not
    known here.
    """
    values = dict(option.partition("=")[::2] for option in front)
    if values.keys() & {"--config-name", "--config-path"}:
        return True
    if Path(values.get("--config-dir", ""), "run.yaml").is_file():
        return True
    keys = (word.lstrip("+~").partition("=")[0] for word in settings)
    return any("." not in key and not overrides.known(key.partition("@")[0]) for key in keys)
