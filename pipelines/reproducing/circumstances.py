"""Differences in code, packages and machine that may change the figures of a result.

Without any, the same seed yields the same figures bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MACHINE = ("cpu", "gpu", "cuda", "driver", "threads", "accelerator", "precision")


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Reasons why figures may differ; if there are none, they must be equal.

    Args:
        then, now: content of the two results.json.
    """
    found = [
        f"{name} {_shown(a)}, now {_shown(b)}"
        for part, names in (("versions", None), ("machine", MACHINE))
        for name, a, b in _pairs(then.get(part), now.get(part), names)
    ]
    found += _code(_mapping(then.get("source")), _mapping(now.get("source")))
    machine = _mapping(now.get("machine"))
    if machine.get("gpu") and machine.get("accelerator") != "cpu":
        found.append("a GPU may sum in a different order in every run")
    networks = [_mapping(results.get("fingerprints")).get("network") for results in (then, now)]
    if networks[0] != networks[1]:
        found.append(
            "the float network differs: trained here under other conditions, other weights, or "
            "another version of the code that defines it"
        )
    if now.get("rounding") is not None:
        found.append("the rounding is trained: a difference of one bit may grow")
    return found


def _pairs(then: Any, now: Any, names: tuple[str, ...] | None) -> list[tuple[str, Any, Any]]:
    a, b = _mapping(then), _mapping(now)
    chosen = names or sorted({*a, *b})
    return [(name, a.get(name), b.get(name)) for name in chosen if a.get(name) != b.get(name)]


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    a, b = (source.get("commit") for source in (then, now))
    if "commit" not in then:
        found.append("the recorded code version is unknown")
    elif a != b:
        found.append(f"commit {_shown(a)[:10]}, now {_shown(b)[:10]}")
    changes = [source.get("diff_sha256") for source in (then, now)]
    if changes[0] != changes[1]:
        which = " and ".join(
            f"{when} the code had uncommitted changes"
            for when, change in zip(("then", "now"), changes, strict=True)
            if change
        )
        found.append(f"{which}, which differ")
    others = sorted({*_names(then), *_names(now)})
    if others:
        found.append(f"untracked code: {', '.join(others[:3])}" + " ..." * (len(others) > 3))
    return found


def _names(source: Mapping[str, Any]) -> list[str]:
    names = source.get("untracked")
    return [str(name) for name in names] if isinstance(names, list) else []


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
