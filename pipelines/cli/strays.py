"""Suggestions for an argument that is neither a command nor name=value."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

COMMANDS = {
    "export": "obliq export",
    "store": "obliq store",
    "reproduce": "obliq reproduce",
    "table": "obliq table",
    "report": "obliq-report",
    "obliq-report": "obliq-report",
    "help": "obliq --help",
    "version": "obliq --version",
}
FIRST = ("experiment", "model", "data", "method", "machine")  # groups to suggest first
EXAMPLE = "name=value, for example bits=3"


def message(argument: str, before: str | None, conf: Path, settings: Sequence[str]) -> str:
    """The error message for a stray argument, on one line.

    Args:
        argument: the stray argument.
        before: the argument before it, if any.
        conf: folder of the configuration groups.
        settings: names of top-level settings.
    """
    name = argument.lower()
    if argument in COMMANDS:
        return f"{argument!r} is a command: put it first, {COMMANDS[argument]} ..."
    meant = {**_choices(conf), **dict.fromkeys(settings, ""), **COMMANDS}
    near = [name] if name in meant else get_close_matches(name, meant, n=3, cutoff=0.6)
    shown = dict.fromkeys(meant[key] or f"{key}=VALUE" for key in near)
    if shown:
        return (
            f"{argument!r} is neither a command nor name=value: did you mean {' or '.join(shown)}?"
        )
    if before is not None and "=" in before:
        return (
            f"{argument!r} is not {EXAMPLE}. If it belongs to the argument before it, quote both: "
            f'"{before} {argument}"'
        )
    return (
        f"{argument!r} is neither a command (export, store, reproduce, table) nor {EXAMPLE}. "
        "See obliq --help"
    )


def _choices(conf: Path) -> dict[str, str]:
    """{"gptq": "method=gptq", ...} for the files of all groups."""
    groups = sorted(
        (folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name != "hydra"),
        key=lambda group: (FIRST.index(group) if group in FIRST else len(FIRST), group),
    )
    found: dict[str, str] = {}
    for group in groups:
        for path in sorted((conf / group).glob("*.yaml")):
            found.setdefault(path.stem, f"{group}={path.stem}")
    return found
