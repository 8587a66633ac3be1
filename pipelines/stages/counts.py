"""How many calibration images are taken where a setting leaves it open, or where there are few."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any


def filled(settings: Mapping[str, Any], counts: Mapping[str, int | None]) -> dict[str, Any]:
    """A copy of the settings with the numbers that were found for those that are null.

    >>> filled({"calibrate": {"images": None}}, {"calibrate.images": 10})
    {'calibrate': {'images': 10}}

    Args:
        settings: resolved.
        counts: by the path of a setting; one that is not there is left out.
    """
    found = deepcopy(dict(settings))
    for name, count in counts.items():
        group, _, key = name.partition(".")
        node = found.get(group)
        if isinstance(node, dict) and key in node and node[key] is None:
            node[key] = count
    return found


def taken(asked: Mapping[str, int], there: int) -> dict[str, int]:
    """Of each stage, by the setting that says how many it takes at most."""
    return {name: min(count, there) for name, count in asked.items()}


def told(asked: Mapping[str, int], there: int) -> str | None:
    """Which stages have fewer images than they may take; None where all have enough."""
    short = [f"{name}={count}" for name, count in asked.items() if count > there]
    if not short:
        return None
    return f"fewer than {', '.join(short)}: all {there} are taken there"
