"""From the command line as typed to the arguments that Hydra gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.cli import choices, layer_bits, options, overrides, quoting, renamed, secrets
from pipelines.cli.quoting import Fault

CONF: Path = overrides.CONF
GIVEN = "OBLIQ_GIVEN"  # environment variable: the overrides as typed, for jobs in other processes


def given() -> list[str]:
    """The overrides as typed, in any process of the run."""
    found: list[str] = json.loads(os.environ.get(GIVEN, "[]"))
    return found


def read(arguments: Sequence[str], fault: Fault, report: Callable[[str], None]) -> list[str]:
    """Check and complete the command line for Hydra, and record the overrides for `given`.

    Args:
        arguments: without the program's name.
        fault: the error of Hydra's grammar in an override, None if it is valid.
        report: called with a line about each override that uses a setting's old name.

    Raises:
        ValueError: an argument is invalid; the message says what to type.
    """
    front, settings = options.separate(arguments)
    if options.named(front, "--shell-completion"):  # its values (install=bash) are no overrides
        return [*front, *settings]
    more = options.named(front, *options.CONFIG)
    secrets.check_arguments(arguments)
    settings, notes = renamed.overrides(settings)
    for note in notes:
        report(note)
    overrides.check(settings, more)
    settings = layer_bits.force_added(quoting.quoted(settings, fault))
    os.environ[GIVEN] = json.dumps(settings)
    front = ["--help" if option == "--help-all" else option for option in front]
    if not (more and _chosen_elsewhere(front, settings)):
        settings = choices.completed(settings, CONF)
    return [*front, *settings]


def _chosen_elsewhere(front: Sequence[str], settings: Sequence[str]) -> bool:
    """Whether the user's own configuration files may choose model and data.

    That is so if one replaces conf/run.yaml, or if an override uses a group that conf/ lacks.
    """
    values = dict(option.partition("=")[::2] for option in front)
    if values.keys() & {"--config-name", "--config-path"}:
        return True
    if Path(values.get("--config-dir", ""), "run.yaml").is_file():
        return True
    keys = (item.lstrip("+~").partition("=")[0] for item in settings)
    return any("." not in key and not overrides.known(key.partition("@")[0]) for key in keys)
