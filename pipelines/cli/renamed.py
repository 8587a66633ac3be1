"""Renamed settings: the names of earlier releases still work, with a note."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

SETTINGS = {
    "block": "block_size",
    "sweeps": "cd_passes",
    "method.block": "method.block_size",
    "method.sweeps": "method.cd_passes",
    "method.features": "method.feature_weight",
    "grid.width": "grid.group_size",
    "calibrate.copies": "calibrate.augmented_copies",
    "calibrate.positions": "calibrate.positions_per_image",
    "quantize.positions": "quantize.positions_per_image",
    "quantize.memory_gb": "quantize.cache_gb",
    "precision.ends_bits": "precision.first_last_bits",
    "precision.changes": "precision.perturbations",
    "activations.ends_bits": "activations.first_last_bits",
    "schedule.chunk": "schedule.micro_batch_size",
    "data.detections": "data.max_detections",
    "hydra.launcher.at_once": "hydra.launcher.n_jobs",
}
VALUES = {"grid.granularity": {"row": "channel", "columns": "group"}}


def overrides(given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Overrides with current names, and a note about each that was renamed.

    Examples:
        >>> overrides(["bits=3", "block=16,32", "precision.changes.images=64"])[0]
        ['bits=3', 'block_size=16,32', 'precision.perturbations.images=64']
        >>> overrides(["block=16"])[1]
        ['block is now called block_size']
    """
    current, notes = [], []
    for override in given:
        name, equals, value = override.partition("=")
        sign = name[: len(name) - len(name.lstrip("+~"))]
        new_name, new_value = setting(name.lstrip("+~"), value)
        current.append(f"{sign}{new_name}{equals}{new_value}")
        notes += _notes(name.lstrip("+~"), value, new_name, new_value)
    return current, list(dict.fromkeys(notes))


def setting(name: str, value: str) -> tuple[str, str]:
    """The current name of a setting, and its value (or list of values) with current names."""
    for old, new in SETTINGS.items():
        if name == old or name.startswith(f"{old}."):
            name = new + name[len(old) :]
            break
    for old, new in VALUES.get(name, {}).items():
        value = re.sub(rf"\b{old}\b", new, value)
    return name, value


def move(
    given: Sequence[str], select: Callable[[str], Any], update: Callable[[str, str, Any], None]
) -> list[str]:
    """Rename settings that configuration files have under an old name; returns a note about each.

    Args:
        given: current names of settings on the command line, which take precedence over files.
        select: returns the value of a setting by its dotted name, or None.
        update: called with (old name, new name, value) for each; a value of None means that the
            command line has set the new name.
    """
    notes = []
    for old in [*SETTINGS, *VALUES]:
        value = select(old)
        if value is None:
            continue
        text = value if isinstance(value, str) else ""
        name, new = setting(old, text)
        if (name, new) == (old, text):
            continue
        value = new if isinstance(value, str) else value
        update(old, name, None if name in given else value)
        notes += _notes(old, text, name, new)
    return notes


def _notes(name: str, value: str, new_name: str, new_value: str) -> list[str]:
    if name != new_name:
        return [f"{name} is now called {new_name}"]
    return [f"{name}={value} is now called {name}={new_value}"] if value != new_value else []
