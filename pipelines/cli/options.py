"""Separate options such as -m from overrides: Hydra accepts options only before the overrides."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

FLAGS = {
    "--help": "-h", "--help-all": "", "--hydra-help": "", "--version": "", "--multirun": "-m",
    "--run": "-r", "--resolve": "", "--shell-completion": "-sc",
}  # fmt: skip
VALUED = {
    "--config-dir": "-cd", "--config-name": "-cn", "--config-path": "-cp", "--cfg": "-c",
    "--package": "-p", "--info": "-i", "--experimental-rerun": "",
}  # fmt: skip
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # of --info
CONFIG = ("--config-dir", "--config-name", "--config-path")  # add configuration files


def separate(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(options under their long names, overrides), each in the order as typed.

    >>> separate(["bits=2,3", "-m", "-cd", "mine", "~tags"])
    (['--multirun', '--config-dir=mine'], ['bits=2,3', '~tags'])

    Raises:
        ValueError: an option is unknown or lacks its value.
    """
    options: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        option, equals, value = argument.partition("=")
        name = _long(option, argument)
        if name in FLAGS:
            options.append(name)
        elif equals:
            options.append(f"{name}={value}")
        elif rest and (name != "--info" or rest[0] in INFO):
            options.append(f"{name}={rest.pop(0)}")
        elif name == "--info":
            options.append("--info=all")
        else:
            raise ValueError(f"{argument} needs a value after it")
    return options, overrides


def named(options: Sequence[str], *names: str) -> bool:
    """Whether one of the options returned by `separate` has one of the names."""
    return any(option.partition("=")[0] in names for option in options)


def _long(given: str, argument: str) -> str:
    """The long name of an option given by its long name, its letter or a unique prefix."""
    every = {**FLAGS, **VALUED}
    if given in every:
        return given
    found = [name for name, short in every.items() if short == given]
    found = found or [name for name in every if len(given) > 3 and name.startswith(given)]
    if len(found) == 1:
        return found[0]
    if "=" in argument:
        raise ValueError(f"unknown option {given}. Settings have no dashes: {argument.lstrip('-')}")
    near = get_close_matches(given, every, n=2, cutoff=0.7)
    hint = f": did you mean {' or '.join(near)}?" if near else f". Options: {', '.join(every)}"
    raise ValueError(f"unknown option {given}{hint}")
