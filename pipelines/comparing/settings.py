"""What a run was asked to do, read from the configuration that it wrote when it started."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.reporting import regular
from pipelines.reporting.formatting import Results

ELSEWHERE = {"machine", "tracking", "tags", "report", "pictures"}  # these change no figure
NAMES = ("experiment", "model", "data", "method")
OTHERS = "other settings"  # the column of what no other column says
NUMBERS = ("bits", "act_bits", "seed")
COLUMNS = {*NAMES, *NUMBERS, "quantize.inputs", "data.images"}
SEARCH = {"precision", *(f"precision.{k}" for k in ("metric", "search", "target", "measure"))}
# no settings of the method: where and how jobs run, or what is computed beside it
ASIDE = {*ELSEWHERE, "launcher", "sweep", "hparams", "hydra", "data", "baseline"}


def names(folder: Path) -> dict[str, Any]:
    """{experiment, model, data, method, bits, act_bits, seed, command}, as far as it is known."""
    started = _mapping(_yaml(folder / "config" / "hydra.yaml").get("hydra"))
    choices = _mapping(_mapping(started.get("runtime")).get("choices"))
    config = _yaml(folder / "config" / "config.yaml")
    words = _mapping(started.get("overrides")).get("task")
    found = {
        **{name: choices.get(name) for name in NAMES},
        **{name: config.get(name) for name in NUMBERS},
        "command": [str(word) for word in words] if isinstance(words, list) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def settings(folder: Path, results: Results | None) -> str | None:
    """A text that is the same for runs with the same settings.

    From the whole configuration where it was kept, else from what the results say of themselves.
    """
    config = _yaml(folder / "config" / "config.yaml")
    if config:
        kept = {key: value for key, value in config.items() if key not in ELSEWHERE}
        return json.dumps(kept, sort_keys=True, default=str)
    if results is None:
        return None
    keys = (*NAMES, "weight_bits", "act_bits", "seed", "inputs", "n_images")
    said = {key: results.get(key) for key in keys}
    return json.dumps([said, words(results)], sort_keys=True, default=str)


def words(results: Results) -> list[str]:
    """Overrides that no column shows: `block_size=32`."""
    given, built = typed(results), results.get("settings")
    return sorted(
        f"{key}={value}"
        for key, value in given.items()
        if not set(re.split("[./@]", key)[:1]) & ASIDE
        and (not isinstance(built, Mapping) or key.split(".")[0] in built)
    )


def typed(results: Results) -> dict[str, str]:
    """{name: value} of the command line, without what has a column of its own."""
    command = results.get("command")
    given = command if isinstance(command, list) else str(command or "").split()
    pairs = (str(word).lstrip("+~").partition("=") for word in given)
    return {key: value for key, equals, value in pairs if equals and key not in COLUMNS}


def apart(words: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """(what all runs were given, what each was given besides), of the words of each."""
    shared = [word for word in words[0] if all(word in own for own in words)] if words else []
    return shared, [[word for word in given if word not in shared] for given in words]


def _yaml(path: Path) -> dict[Any, Any]:
    """A YAML file as a dict; an empty one where there is none that can be read."""
    try:
        return _mapping(yaml.safe_load(regular.read_text(path)))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
