"""The settings of a run, from its results or the configuration it wrote when it started."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.reporting import regular
from pipelines.reporting.formatting import Results

ELSEWHERE = {"machine", "tracking", "tags", "report", "pictures"}  # these affect no figure
NAMES = ("experiment", "model", "data", "method")
OTHERS = "other settings"  # column for settings without one of their own
NUMBERS = ("bits", "act_bits", "seed")
COLUMNS = {*NAMES, *NUMBERS, "quantize.inputs", "data.images"}
SEARCH = {"precision", *(f"precision.{k}" for k in ("metric", "search", "target", "measure"))}
# not settings of the method: how jobs are run, or what is computed besides it
ASIDE = {*ELSEWHERE, "launcher", "sweep", "hparams", "hydra", "data", "baseline"}


def names(folder: Path) -> dict[str, Any]:
    """{experiment, model, data, method, bits, act_bits, seed, command}, as far as known."""
    started = _mapping(_yaml(folder / "config" / "hydra.yaml").get("hydra"))
    choices = _mapping(_mapping(started.get("runtime")).get("choices"))
    config = _yaml(folder / "config" / "config.yaml")
    task = _mapping(started.get("overrides")).get("task")
    found = {
        **{name: choices.get(name) for name in NAMES},
        **{name: config.get(name) for name in NUMBERS},
        "command": [str(item) for item in task] if isinstance(task, list) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def settings(folder: Path, results: Results | None) -> str | None:
    """A text that is equal for runs with equal settings; None if they are unknown.

    From the run's configuration file if there is one, else from its results.
    """
    config = _yaml(folder / "config" / "config.yaml")
    if config:
        kept = {key: value for key, value in config.items() if key not in ELSEWHERE}
        return json.dumps(kept, sort_keys=True, default=str)
    if results is None:
        return None
    keys = (*NAMES, "weight_bits", "act_bits", "seed", "inputs", "n_images")
    recorded = {key: results.get(key) for key in keys}
    return json.dumps([recorded, overrides(results)], sort_keys=True, default=str)


def overrides(results: Results) -> list[str]:
    """Overrides without a column of their own: `block_size=32`."""
    given, built = typed(results), results.get("settings")
    return sorted(
        f"{key}={value}"
        for key, value in given.items()
        if not set(re.split("[./@]", key)[:1]) & ASIDE
        and (not isinstance(built, Mapping) or key.split(".")[0] in built)
    )


def typed(results: Results) -> dict[str, str]:
    """{name: value} of the command line, without settings that have a column of their own."""
    command = results.get("command")
    given = command if isinstance(command, list) else str(command or "").split()
    pairs = (str(item).lstrip("+~").partition("=") for item in given)
    return {key: value for key, equals, value in pairs if equals and key not in COLUMNS}


def split(overrides: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """(overrides that all runs share, the other overrides of each run)."""
    first = overrides[0] if overrides else ()
    shared = [item for item in first if all(item in own for own in overrides)]
    return shared, [[item for item in own if item not in shared] for own in overrides]


def _yaml(path: Path) -> dict[Any, Any]:
    """A YAML file as a dict; empty if it cannot be read."""
    try:
        return _mapping(yaml.safe_load(regular.read_text(path)))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
