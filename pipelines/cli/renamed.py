"""Settings that had other names in the release before: the old ones still work, with a note."""

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


def words(given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Overrides of the command line with today's names, and a line about each that was renamed.

    Examples:
        >>> words(["bits=3", "block=16,32", "precision.changes.images=64"])[0]
        ['bits=3', 'block_size=16,32', 'precision.perturbations.images=64']
        >>> words(["block=16"])[1]
        ['block is now called block_size']
    """
    now, notes = [], []
    for word in given:
        name, equals, value = word.partition("=")
        sign = name[: len(name) - len(name.lstrip("+~"))]
        new_name, new_value = setting(name.lstrip("+~"), value)
        now.append(f"{sign}{new_name}{equals}{new_value}")
        notes += _notes(name.lstrip("+~"), value, new_name, new_value)
    return now, list(dict.fromkeys(notes))


def setting(name: str, value: str) -> tuple[str, str]:
    """Today's name of a setting, and of a value or a list of values."""
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
    """Rename what a configuration file has under an old name; a line about each.

    Args:
        given: today's names of settings on the command line, which win over those of a file.
        select: value of a setting by its dotted name, None where there is none.
        update: called with (old name, new name, value) for each; None: the new one has its value.
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
