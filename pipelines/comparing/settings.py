"""What a run was asked to do, read from the configuration that it wrote when it started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

ELSEWHERE = {"machine", "tracking", "tags", "report", "pictures"}  # these change no figure
NAMES = ("experiment", "model", "data", "method")
OTHERS = "other settings"  # the column of what no other column says
NUMBERS = ("bits", "act_bits", "seed")


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
    """Words of the command line that say what no column says: `block=32`."""
    command = results.get("command")
    given = command if isinstance(command, list) else str(command or "").split()
    return sorted(str(word) for word in given if not _has_column(str(word)))


def others(results: Results) -> list[str]:
    """Those of `words` that do not say how bits were searched, where `formatting.search` does."""
    if formatting.search(results) is None:
        return words(results)
    said = ("precision.metric=", "precision.search=", "precision.target=", "precision.measure=")
    return [word for word in words(results) if not word.startswith(said)]


def apart(words: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """(what all runs were given, what each was given besides), of the words of each."""
    shared = [word for word in words[0] if all(word in own for own in words)] if words else []
    own = [" ".join(word for word in given if word not in shared) for given in words]
    return " ".join(shared), own


def _has_column(word: str) -> bool:
    key = word.lstrip("+~").split("=")[0]
    shown = {*NAMES, *NUMBERS, "quantize.inputs"}
    groups = {*ELSEWHERE, "hydra", "data", "baseline"}
    return "=" not in word or key in shown or key.split(".")[0] in groups


def _yaml(path: Path) -> dict[Any, Any]:
    """A YAML file as a dict; an empty one where there is none that can be read."""
    try:
        return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
