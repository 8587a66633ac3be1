"""A word that is neither a command nor name=value: what was it meant to be?"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

COMMANDS = {
    "store": "obliq store",
    "reproduce": "obliq reproduce",
    "table": "obliq table",
    "report": "obliq-report",
    "obliq-report": "obliq-report",
    "help": "obliq --help",
    "version": "obliq --version",
}
FIRST = ("experiment", "model", "data", "method", "machine")  # groups, before the others
EXAMPLE = "name=value, for example bits=3"


def told(word: str, before: str | None, conf: Path, settings: Sequence[str]) -> str:
    """One line for the user.

    Args:
        word: the stray one.
        before: the word in front of it, if there is one.
        conf: the folder of groups.
        settings: names of those that stand beside the groups.
    """
    name = word.lower()
    if word in COMMANDS:
        return f"{word!r} is a command: type it first, {COMMANDS[word]} ..."
    meant = {**_choices(conf), **dict.fromkeys(settings, ""), **COMMANDS}
    near = [name] if name in meant else get_close_matches(name, meant, n=3, cutoff=0.6)
    shown = dict.fromkeys(meant[key] or f"{key}=VALUE" for key in near)
    if shown:
        return f"{word!r} is neither a command nor name=value: did you mean {' or '.join(shown)}?"
    if before is not None and "=" in before:
        return (
            f"{word!r} is no {EXAMPLE}. If it belongs to the word before, put both into quotes: "
            f'"{before} {word}"'
        )
    return (
        f"{word!r} is neither a command (store, reproduce, table) nor {EXAMPLE}. "
        "obliq --help lists both"
    )


def _choices(conf: Path) -> dict[str, str]:
    """{"gptq": "method=gptq", ...} of the files of all groups."""
    groups = sorted(
        (folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name != "hydra"),
        key=lambda group: (FIRST.index(group) if group in FIRST else len(FIRST), group),
    )
    found: dict[str, str] = {}
    for group in groups:
        for path in sorted((conf / group).glob("*.yaml")):
            found.setdefault(path.stem, f"{group}={path.stem}")
    return found
