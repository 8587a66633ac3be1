"""Classes by name: those of a data set's labels among those of a network's outputs."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

SHOWN = 3  # names in a message


def names_of(network: nn.Module) -> tuple[str, ...]:
    """Class names that a network carries, in the order of its outputs; () if it has none.

    Read from the attribute `names` (as ultralytics' models have it), `config.id2label`
    (transformers) or `pretrained_cfg["label_names"]` (timm), of the network or its `model`.
    Numbered placeholders (LABEL_0, LABEL_1, ...) are no names.
    """
    for part in (network, getattr(network, "model", None)):
        config = getattr(part, "pretrained_cfg", None)
        labels = config.get("label_names") if isinstance(config, Mapping) else None
        for found in (
            getattr(part, "names", None),
            getattr(getattr(part, "config", None), "id2label", None),
            labels,
        ):
            if (names := in_order(found)) and not _numbered(names):
                return names
    return ()


def in_order(names: Any) -> tuple[str, ...]:
    """A list of names, or {0: name, 1: name, ...}, in order; () where it is neither."""
    if isinstance(names, Mapping):
        try:
            numbered = {int(number): name for number, name in names.items()}
        except (TypeError, ValueError):
            return ()
        if set(numbered) != set(range(len(names))):
            return ()
        names = [numbered[i] for i in range(len(names))]
    if isinstance(names, str) or not isinstance(names, Sequence):
        return ()
    return tuple(map(str, names))


def _numbered(names: tuple[str, ...]) -> bool:
    """Whether they are one prefix and their number: 0, 1, ... or class_0, class_1, ..."""
    prefix = names[0][:-1] if names and names[0].endswith("0") else None
    return prefix is not None and all(name == f"{prefix}{i}" for i, name in enumerate(names))


def indices(own: Sequence[str], network: Sequence[str], where: object) -> list[int]:
    """For each of a data set's classes, its index among the network's, by name.

    Case, spaces and punctuation do not count: "hair drier" is hair_drier.

    Args:
        own: the data set's names.
        network: names of the network's outputs.
        where: what holds the data set's names, for the message.

    Raises:
        ValueError: names a class that the network lacks, or two of the same name.
    """
    known: dict[str, list[int]] = {}
    for index, name in enumerate(network):
        known.setdefault(plain(name), []).append(index)
    absent = [name for name in own if plain(name) not in known]
    if absent:
        raise ValueError(
            f"{where}: {_some(absent)} of {len(own)} classes: the network has no such class, but "
            f"{_some(network)}. Correct the names, choose another network, or set data.names to "
            "the names in the network's spelling"
        )
    found = [known[plain(name)] for name in own]
    twice = [name for name, places in zip(own, found, strict=True) if len(places) > 1]
    if twice or len({places[0] for places in found}) < len(own):
        raise ValueError(
            f"{where}: {_some(twice or own)}: several classes have the same name, so labels cannot "
            "be matched to the network's outputs by name. Rename them"
        )
    return [places[0] for places in found]


def require_same(own: Sequence[str], network: nn.Module, name: str) -> None:
    """Check that a network's own names, if it has any, are the data set's, in the same order.

    Raises:
        ValueError: names the first class that differs.
    """
    theirs = names_of(network)
    if not theirs or not own:
        return
    for index, (mine, other) in enumerate(zip(own, theirs, strict=False)):
        if plain(mine) != plain(other):
            raise ValueError(
                f"class {index} is {mine!r} in the data set, but {other!r} in model {name}: the "
                "labels would be counted for other classes. Use a data set with the network's "
                "classes, in its order"
            )


def plain(name: str) -> str:
    """A name without case, spaces and punctuation."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in text if c.isalnum()) or text


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
