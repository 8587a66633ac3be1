"""Check the words of the command line before Hydra does: an unknown name gets the nearest valid one."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

CONF = Path(__file__).parent.parent / "conf"


def check(words: Sequence[str]) -> None:
    """Every `group=name` of `words` must name a file of that group.

    Raises:
        ValueError: it does not; the nearest names are given.
    """
    for word in words:
        if word.startswith("-") or "=" not in word:
            continue
        key, _, value = word.lstrip("+~").partition("=")
        group = key.split("@")[0]
        if "." in group or not (CONF / group).is_dir():
            _check_key(group)
            continue
        for name in value.strip("'\"").split(","):
            if name and name != "null" and not (CONF / group / f"{name}.yaml").is_file():
                raise ValueError(_unknown(group, name))


def _check_key(key: str) -> None:
    known = [*_top_level(), "hydra"]
    top = key.split(".")[0]
    if top not in known:
        raise ValueError(
            f"unknown setting {top!r}{_nearest(top, known)} Settings: {', '.join(sorted(known))}"
        )


def _top_level() -> list[str]:
    """The groups, and the keys at the left margin of run.yaml."""
    lines = (CONF / "run.yaml").read_text().splitlines()
    keys = [line.split(":")[0] for line in lines if line[:1].isalpha() and ":" in line]
    return [*keys, *(folder.name for folder in CONF.iterdir() if folder.is_dir())]


def _unknown(group: str, name: str) -> str:
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    extra = ""
    if group == "model":
        extra = ". Any other timm network: model=timm model.name=NAME"
    return f"unknown {group} {name!r}{_nearest(name, names)} Valid: {', '.join(names)}{extra}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    return f": did you mean {' or '.join(near)}?" if near else "."
