"""Bits of single layers, by dotted names: precision.overrides.layer1.0.conv1=8.

Hydra reads the dots as nested settings, which do not exist until they are added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

KEY = "overrides"
OVERRIDE = re.compile(rf"^\w+\.{KEY}[.=]")


def force_added(overrides: Sequence[str]) -> list[str]:
    """Prefix overrides of single layers with ++, which adds or overrides.

    >>> force_added(["bits=3", "precision.overrides.layer1.0.conv1=4,8"])
    ['bits=3', '++precision.overrides.layer1.0.conv1=4,8']
    """
    return [f"++{override}" if OVERRIDE.match(override) else override for override in overrides]


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the bits of single layers: the full name of each layer becomes one key.

    >>> flat({"precision": {"overrides": {"stem": 4, "layer1": {"0": {"conv1": 8}}}}})
    {'precision': {'overrides': {'stem': 4, 'layer1.0.conv1': 8}}}
    """
    return {
        key: {**value, KEY: dict(_leaves(value[KEY], ""))}
        if isinstance(value, Mapping) and isinstance(value.get(KEY), Mapping)
        else value
        for key, value in settings.items()
    }


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
