"""Folders of images, one for each class: which class a folder stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.class_names import indices, plain
from evaluation.synsets import SYNSETS

TEXT, NATURAL = "text", "natural"
ORDERS = (TEXT, NATURAL)
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
IMAGENET = 1000


def class_folders(folder: Path) -> list[str]:
    """Names of the folders of classes, sorted as text.

    Raises:
        ValueError: there are none, or they are the parts of a data set.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names or names == ["images"]:
        raise ValueError(
            f"{folder} has neither one folder per class nor images/ with labels.txt: the images "
            "have no labels. Use one of these two layouts"
        )
    if all(name.lower() in SPLITS for name in names):
        raise ValueError(
            f"{folder} holds {', '.join(names)}, which are parts of a data set and no classes: set "
            "data.root to a folder with val/, or to the part to evaluate on"
        )
    return names


def labels_of(
    folder: Path,
    found: Sequence[str],
    classes: int | None,
    names: Sequence[str] = (),
    order: str | None = None,
) -> dict[str, int]:
    """{folder of a class: index of the network's output}.

    By the first of these that applies:

    - the network's class names, if a folder has one of them;
    - ImageNet-1k's synsets, with 1000 classes: their indices;
    - numbers 0 ... classes - 1: that number;
    - the rank among all folders, which must be as many as there are classes.

    Args:
        folder: for messages.
        found: all folders of classes.
        classes: number of the network's outputs; None: as many as there are folders.
        names: of the network's outputs, in their order; () if unknown.
        order: how folders are sorted for their rank: TEXT (torchvision) or NATURAL (timm: by the
            numbers in them, in lower case); None: either, where both are the same, and only if
            `names` is empty.

    Raises:
        ValueError: none applies, or the order is needed and not given.
    """
    known = {plain(name) for name in names}
    if order is None and any(plain(name) in known for name in found):
        return dict(zip(found, indices(found, names, folder), strict=True))
    if classes == IMAGENET and order is None:
        synsets = {name: i for i, name in enumerate(SYNSETS)}
        if all(name in synsets for name in found):
            return {name: synsets[name] for name in found}
    count = len(found) if classes is None else classes
    numbers = [int(name) for name in found if re.fullmatch("[0-9]+", name)]
    if order is None and len({*numbers} & {*range(count)}) == len(found):
        return {name: int(name) for name in found}
    if names and order is None:
        indices(found, names, folder)  # names the folders that are no class of the network
    if len(found) != count:
        raise ValueError(
            f"{folder} has {len(found)} class folders ({', '.join(found[:3])} ...) but "
            f"data.classes={count}: the class index is the rank of the sorted folder names, so "
            f"labels would be wrong. Set data.classes={len(found)} if the network has as many "
            "classes, or add a folder (it may be empty) for each missing class"
        )
    if order is None and len(numbers) == len(found):
        order = NATURAL
    return {name: rank for rank, name in enumerate(_ranked(folder, found, order))}


def _ranked(folder: Path, found: Sequence[str], order: str | None) -> list[str]:
    as_text, natural = sorted(found), sorted(found, key=_natural_key)
    if order is None and as_text != natural:
        first = next(i for i, (a, b) in enumerate(zip(as_text, natural, strict=True)) if a != b)
        raise ValueError(
            f"{folder}: class {first} is {as_text[first]} if the folders are sorted as text (as "
            f"torchvision does), but {natural[first]} by the numbers in them and in lower case (as "
            "timm does). Set data.class_order=text or natural, as the network was trained"
        )
    return natural if order == NATURAL else as_text


def _natural_key(name: str) -> list[str | int]:
    """As `timm.utils.natural_key`, without timm: its version is no input of a class folder."""
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", name.lower())]
