"""Bits of single layers, by names with dots: precision.overrides.layer1.0.conv1=8.

Hydra takes the dots for settings within settings, and none of those is there before it is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

KEY = "overrides"
WORD = re.compile(rf"^\w+\.{KEY}[.=]")


def added(words: Sequence[str]) -> list[str]:
    """The words; those about single layers in the form that adds or overrides.

    >>> added(["bits=3", "precision.overrides.layer1.0.conv1=4,8"])
    ['bits=3', '++precision.overrides.layer1.0.conv1=4,8']
    """
    return [f"++{word}" if WORD.match(word) else word for word in words]


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the whole name of each layer as one key.

    >>> flat({"precision": {"overrides": {"stem": 4, "layer1": {"0": {"conv1": 8}}}}})
    {'precision': {'overrides': {'stem': 4, 'layer1.0.conv1': 8}}}
    """
    return {
        key: {**value, KEY: dict(_leaves(value[KEY], ""))}
        if isinstance(value, Mapping) and isinstance(value.get(KEY), Mapping)
        else value
        for key, value in settings.items()
    }


def _leaves(node: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
