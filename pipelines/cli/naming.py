"""Names of runs for people: name, bit widths, job type, and what distinguishes jobs of a sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

NAMED = {"experiment", "method", "bits", "act_bits", "seed"}  # already part of every name
SWEEPS = re.compile(r"^(choice|range|interval|glob)\(|,")


def name(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """digits-row_parallel-w4a8-s1: experiment (or model and data), method, bits, seed if not 0."""
    title = choices.get("experiment") or "-".join(
        dict.fromkeys([choices["model"], choices["data"]])
    )
    text = f"{title}-{choices['method']}-{width(settings)}"
    return f"{text}-s{settings['seed']}" if settings["seed"] else text


def width(settings: Mapping[str, Any]) -> str:
    """w4, or w4a8; mixed99.9 for a target of 99.9 %."""
    activations = f"a{settings['act_bits']}" if settings["act_bits"] is not None else ""
    target = settings["precision"].get("target")
    return f"w{settings['bits']}{activations}" if target is None else f"mixed{100 * target:g}"


def job_type(settings: Mapping[str, Any]) -> str:
    """Kind of run: "mixed" precision, trained rounding ("eptq"), or neither ("ptq")."""
    if settings["precision"].get("target") is not None:
        return "mixed"
    return "eptq" if settings["rounding"] is not None else "ptq"


def swept(given: Sequence[str], overrides: Sequence[str], choices: Mapping[str, Any]) -> list[str]:
    """Overrides that distinguish a job from others of its sweep and are not part of its name.

    Examples:
        >>> swept(["-m", "bits=2,3", "damping=0.01,0.1"], ["bits=2", "damping=0.1"], {})
        ['damping=0.1']

    Args:
        given: overrides of the sweep, as typed.
        overrides: overrides of the job.
        choices: chosen file of each configuration group.
    """
    named = NAMED | (set() if choices.get("experiment") else {"model", "data"})
    several = {key for key, value in map(_parts, given) if SWEEPS.search(_outside_brackets(value))}
    return [
        override.removeprefix("++")
        for override in overrides
        if _parts(override)[0] in several - named
    ]


def _parts(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+").partition("=")
    return key, value


def _outside_brackets(value: str) -> str:
    """`value` without lists, mappings and quoted texts, whose commas separate no sweep values."""
    return re.sub(r"\[[^]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"", "", value)
