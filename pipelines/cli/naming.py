"""What a run is called, for people: name, width, kind of run, words of a sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

NAMED = {"experiment", "method", "bits", "act_bits", "seed"}  # what every name says already
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
    """What kind of run: mixed precision, a trained rounding (eptq), or neither (ptq)."""
    if settings["precision"].get("target") is not None:
        return "mixed"
    return "eptq" if settings["rounding"] is not None else "ptq"


def swept(given: Sequence[str], words: Sequence[str], choices: Mapping[str, Any]) -> list[str]:
    """Words of one job that tell it from the others of its sweep and that its name does not say.

    Examples:
        >>> swept(["-m", "bits=2,3", "damping=0.01,0.1"], ["bits=2", "damping=0.1"], {})
        ['damping=0.1']

    Args:
        given: of the sweep, as typed.
        words: of the job.
        choices: files of the groups.
    """
    said = NAMED | (set() if choices.get("experiment") else {"model", "data"})
    several = {key for key, value in map(_parts, given) if SWEEPS.search(_outside_brackets(value))}
    return [word.removeprefix("++") for word in words if _parts(word)[0] in several - said]


def _parts(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value


def _outside_brackets(value: str) -> str:
    """`value` without lists, mappings and quoted text, whose commas are their own."""
    return re.sub(r"\[[^]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"", "", value)
