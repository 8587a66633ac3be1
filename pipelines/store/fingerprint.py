"""Store keys: a hash of a stage's settings, its inputs' content, and the code behind both.

Nothing is listed: what a value holds is described (`store.describe`), and from the modules that it
names on the way the code is followed (`store.code`). Code that shows, tracks or stores results is
no part of a key as long as no stage imports it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from pipelines.store import code
from pipelines.store.artifacts import Keyed
from pipelines.store.describe import Description

DIGITS = 32  # hexadecimal, of a key


def key(stage: Any, inputs: Iterable[Any]) -> str:
    """The key of `stage` on these inputs: 32 hexadecimal digits.

    Raises:
        UntellableError: a setting has no content that can be told.
    """
    inputs = list(inputs)
    seen = Description()
    settings = seen.of(stage)
    source = _source(frozenset(seen.modules.union(*map(_makers, inputs))))
    return _hash([settings, [each.key for each in inputs], source])[:DIGITS]


def content(value: Any) -> str:
    """sha256 of what a value is, and of the code that it brings along.

    Raises:
        UntellableError: it has no content that can be told.
    """
    seen = Description()
    described = seen.of(value)
    return _hash([described, _source(frozenset(seen.modules))])


def freeze(value: Any) -> frozenset[str]:
    """Read the code of a value now, as its files may be edited while it runs.

    Returns:
        names of the modules that the code comes from.

    Raises:
        UntellableError: it has no content that can be told.
    """
    names = modules(value)
    _source(names)
    return names


def modules(stage: Any, inputs: Iterable[Any] = ()) -> frozenset[str]:
    """Names of the modules that the code of a stage and of its inputs comes from."""
    seen = Description()
    seen.of(stage)
    return frozenset(seen.modules.union(*map(_makers, inputs)))


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the libraries that the code of these modules uses."""
    found = code.closure(names)
    return {
        name.removeprefix("dist "): text.partition(" ")[0]
        for name, text in sorted(found.items())
        if name == "python" or name.startswith("dist ")
    }


def _makers(given: Any) -> set[str]:
    """Modules of an input's class, and of the functions that it holds to make its content.

    The code of a network is in its own key.
    """
    value = given.value if isinstance(given, Keyed) else given
    if not given.key or isinstance(value, nn.Module):
        return set()
    held = [type(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (getattr(value, f.name) for f in dataclasses.fields(value))
        held += [each for each in fields if callable(each) and not isinstance(each, nn.Module)]
    elif isinstance(value, Mapping):
        held += [type(each) for each in value.values()]
    return {name for each in held if (name := getattr(each, "__module__", None))}


@functools.cache
def _source(names: frozenset[str]) -> str:
    return _hash(code.closure(names))


def forget() -> None:
    """Read code and versions anew from now on."""
    code.forget()
    _source.cache_clear()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
