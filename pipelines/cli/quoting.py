"""Quote values that Hydra's grammar cannot read: paths and texts with ( ) = ~ ' or letters like ü.

Ambiguous values are not guessed: an error says what to type.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

Fault = Callable[[str], str | None]
"""Maps an override to the error of Hydra's grammar; None if it is valid."""

FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|bool|float|int|str)\s*\(")
CLOSING = {"[": "]", "{": "}"}


def quoted(overrides: Sequence[str], fault: Fault) -> list[str]:
    """Add quotes around the values that need them.

    Raises:
        ValueError: an override is invalid and ambiguous.
    """
    return [
        override
        if override.startswith("~") or fault(override) is None
        else _readable(override, overrides[i:], fault)
        for i, override in enumerate(overrides)
    ]


def text(value: str) -> str:
    """Quote a value so that Hydra reads it back unchanged.

    >>> print(text("it's (new)"), text("/photos (2024)/val"))
    "it's (new)" '/photos (2024)/val'
    """
    quote = '"' if "'" in value and '"' not in value else "'"
    inside = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", value)  # backslashes before a quote, and
    inside = re.sub(r"(\\+)$", r"\1\1", inside)  # those at the end, count twice
    return f"{quote}{inside}{quote}"


def typed(*arguments: str) -> str:
    """What to type in a shell for these arguments."""
    return " ".join(
        f'"{item}"' if not re.search(r'["$`\\!]', item) else shlex.quote(item) for item in arguments
    )


def _readable(override: str, rest: Sequence[str], fault: Fault) -> str:
    """The override with its value quoted; `rest` are the arguments from this one on."""
    name, _, value = override.partition("=")
    if fault(f"{name}=1") is not None:
        raise ValueError(
            f"{name!r} is no name of a setting: names are identifiers with dots between them"
        )
    value = value.strip()
    end = CLOSING.get(value[:1])
    if end and (value.endswith(end) or end not in value):
        return _list(name, value, rest, fault)
    if value[:1] in "'\"" or FUNCTION.match(value):
        raise ValueError(
            f"{override} cannot be read: {fault(override)}. "
            f"If it is text, type {_typed(name, value)}"
        )
    if "," in value:
        several = ",".join(_element(part.strip(), fault) for part in value.split(","))
        raise ValueError(
            f"{override} is ambiguous: one text, or several values? "
            f"One text: {_typed(name, value)}. "
            f"Several values, for a sweep: -m {typed(f'{name}={several}')}"
        )
    return f"{name}={text(value)}"


def _list(name: str, value: str, rest: Sequence[str], fault: Fault) -> str:
    """A list with its elements quoted; an invalid mapping is an error."""
    end = CLOSING[value[0]]
    if not value.endswith(end):
        upto = next((i for i, part in enumerate(rest) if part.endswith(end)), 0)
        whole = " ".join(rest[: upto + 1]) if upto else f"{name}={value}{end}"
        raise ValueError(
            f"{name}={value} lacks its {end}: a space ends an argument. Type {typed(whole)}"
        )
    elements = [_element(part.strip(), fault) for part in value[1:-1].split(",")]
    found = f"{name}=[{','.join(elements)}]"
    if end == "]" and fault(found) is None:
        return found
    example = "[a,'b (c)']" if end == "]" else "{a: 1, b: 'c (d)'}"
    raise ValueError(
        f"{name}={value} cannot be read: {fault(f'{name}={value}')}. Quote the texts in "
        f"it, as in {typed(f'{name}={example}')}"
    )


def _element(value: str, fault: Fault) -> str:
    return value if fault(f"x={value}") is None else text(value)


def _typed(name: str, value: str) -> str:
    return typed(f"{name}={text(value.strip(chr(34) + chr(39)))}")
