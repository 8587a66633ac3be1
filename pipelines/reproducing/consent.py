"""What a record makes run: told before anything of it runs, and agreed to."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

OWN = ("pipelines.", "quant.", "evaluation.", "hydra_plugins.")  # packages of this project
RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")  # ${oc.create:...}; ${bits} is none


def calls_code(word: str) -> bool:
    """Whether a word of a recorded command line names code, or hides that it does.

    Resolvers and escapes could make up a `_target_` that the word does not show.
    """
    plain = re.sub(r"[\\'\"\s]", "", word)
    return "_target_" in plain or word.startswith("-") or bool(RESOLVER.search(plain))


def targets(settings: Mapping[str, Any]) -> set[str]:
    """Every class and function that settings make call."""
    return set(_targets(settings))


def foreign(settings: Mapping[str, Any]) -> list[str]:
    """Those that are not of this project."""
    return sorted(name for name in targets(settings) if not name.startswith(OWN))


def unannounced(announced: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Code of others that the settings call now, and that those in the record do not name."""
    return sorted(set(foreign(now)) - targets(announced))


def told(words: Sequence[str], config_dir: str | None, settings: Mapping[str, Any]) -> list[str]:
    """Lines that say what will run."""
    lines = [f"will run: obliq {' '.join(words)}"]
    if config_dir:
        lines.append(f"  with the configuration in {config_dir}, which may name any code")
    if code := foreign(settings):
        lines.append(f"  calling code that is not part of obliq: {', '.join(code)}")
    return lines


def agreed(yes: bool, ask: Callable[[str], str] = input) -> bool:
    """Whether to go on: said by --yes, or by a person at a terminal.

    Raises:
        ValueError: there is neither.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ValueError("nobody is here to be asked: give --yes to run this")
    try:
        return ask("Run this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
