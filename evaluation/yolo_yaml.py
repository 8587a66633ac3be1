"""ultralytics' data.yaml: the folders of a YOLO data set's images, and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.class_names import in_order
from evaluation.image_files import read

USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
PARTS = {"val": ("val", "validation", "valid"), "train": ("train",)}


@dataclass(frozen=True)
class YoloYaml:
    """Content of a data.yaml.

    Attributes:
        file: the file.
        root: its `path`, or the folder of the file.
        names: of the classes, by number; () without any.
        places: by part of the data set, "val" or "train": folders of images, or text files that
            list them.
    """

    file: Path
    root: Path
    names: tuple[str, ...]
    places: Mapping[str, tuple[Path, ...]]


def find(root: Path) -> Path | None:
    """`root` itself if it is a file, else the data.yaml in the folder, if it has one."""
    if root.is_file():
        return root
    return next((root / name for name in USUAL if (root / name).is_file()), None)


def load(file: Path) -> YoloYaml:
    """Read a data.yaml.

    As in ultralytics, `train` and `val` are paths, or lists of paths, below `path`; and a path
    that begins with ../ and does not exist is taken below `path` too. Unlike there, a relative
    `path` is relative to the file.

    Raises:
        ValueError: the file is no such YAML, or a path in it does not exist.
    """
    content = _content(file)
    root = _root(file, content.get("path"))
    places = {}
    for part, keys in PARTS.items():
        given = next((content[key] for key in keys if content.get(key)), None)
        if given is not None:
            entries = given if isinstance(given, list) else [given]
            places[part] = tuple(_place(file, root, str(entry)) for entry in entries)
    return YoloYaml(file, root, _names(file, content), places)


def _content(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(read(file).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} cannot be read as YAML: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds no settings: expected `train`, `val` and `names`")
    return content


def _root(file: Path, given: Any) -> Path:
    """The first existing of `path` below the file's folder, and as it is; else that folder."""
    here = file.resolve().parent
    if given is None:
        return here
    paths = (here / str(given), Path(str(given)).expanduser())
    return next((path.resolve() for path in paths if path.is_dir()), here)


def _place(file: Path, root: Path, entry: str) -> Path:
    paths = [root / entry]
    if entry.startswith("../"):
        paths.append(root / entry.removeprefix("../"))
    found = next((path.resolve() for path in paths if path.exists()), None)
    if found is None:
        raise ValueError(
            f"{file} names {entry}, but {paths[0]} does not exist. Correct the path there, or "
            "`path:`, the folder that it is relative to"
        )
    return found


def _names(file: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    given, count = content.get("names"), content.get("nc")
    names = in_order(given)
    if given is not None and not names:
        raise ValueError(f"{file}: `names` must be a list of names, or number: name from 0 on")
    if names and count is not None and str(count) != str(len(names)):
        raise ValueError(f"{file} has nc: {count}, but {len(names)} `names`")
    return names
