"""Quote values that Hydra's grammar cannot read: paths and texts with ( ) = ~ ' or letters like ü.

What could mean two things is not guessed: the user is told what to type.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

Fault = Callable[[str], str | None]
"""A word -> what is wrong with it; None where Hydra's grammar can read it."""

FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|bool|float|int|str)\s*\(")
CLOSING = {"[": "]", "{": "}"}


def quoted(words: Sequence[str], fault: Fault) -> list[str]:
    """The words, with quotes around the values that need them.

    Raises:
        ValueError: a word cannot be read, and it is not clear how it is meant.
    """
    return [
        word if word.startswith("~") or fault(word) is None else _readable(word, words[i:], fault)
        for i, word in enumerate(words)
    ]


def text(value: str) -> str:
    """`value` between quotes, as Hydra reads it back.

    >>> print(text("it's (new)"), text("/photos (2024)/val"))
    "it's (new)" '/photos (2024)/val'
    """
    quote = '"' if "'" in value and '"' not in value else "'"
    inside = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", value)  # backslashes before a quote, and
    inside = re.sub(r"(\\+)$", r"\1\1", inside)  # those at the end, count twice
    return f"{quote}{inside}{quote}"


def typed(*words: str) -> str:
    """What to type in a shell for these words."""
    return " ".join(
        f'"{word}"' if not re.search(r'["$`\\!]', word) else shlex.quote(word) for word in words
    )


def _readable(word: str, rest: Sequence[str], fault: Fault) -> str:
    """The word with quotes; `rest` begins with it."""
    name, _, value = word.partition("=")
    if fault(f"{name}=1") is not None:
        raise ValueError(f"{name!r} is no name of a setting: names are words, with dots between")
    value = value.strip()
    end = CLOSING.get(value[:1])
    if end and (value.endswith(end) or end not in value):
        return _list(name, value, rest, fault)
    if value[:1] in "'\"" or FUNCTION.match(value):
        raise ValueError(
            f"{word} cannot be read: {fault(word)}. If it is text, type {_typed(name, value)}"
        )
    if "," in value:
        several = ",".join(_element(part.strip(), fault) for part in value.split(","))
        raise ValueError(
            f"{word} is either one text or several values. One text: {_typed(name, value)}. "
            f"Several, for a sweep: -m {typed(f'{name}={several}')}"
        )
    return f"{name}={text(value)}"


def _list(name: str, value: str, rest: Sequence[str], fault: Fault) -> str:
    """A list with quotes around its elements; a mapping only as it was typed."""
    end = CLOSING[value[0]]
    if not value.endswith(end):
        upto = next((i for i, word in enumerate(rest) if word.endswith(end)), 0)
        whole = " ".join(rest[: upto + 1]) if upto else f"{name}={value}{end}"
        raise ValueError(
            f"{name}={value} lacks its {end}: a space ends a word. Type {typed(whole)}"
        )
    elements = [_element(part.strip(), fault) for part in value[1:-1].split(",")]
    found = f"{name}=[{','.join(elements)}]"
    if end == "]" and fault(found) is None:
        return found
    example = "[a,'b (c)']" if end == "]" else "{a: 1, b: 'c (d)'}"
    raise ValueError(
        f"{name}={value} cannot be read: {fault(f'{name}={value}')}. Put quotes around texts in "
        f"it, as in {typed(f'{name}={example}')}"
    )


def _element(value: str, fault: Fault) -> str:
    return value if fault(f"x={value}") is None else text(value)


def _typed(name: str, value: str) -> str:
    return typed(f"{name}={text(value.strip(chr(34) + chr(39)))}")
