"""Sizes of images in a COCO JSON, compared with the files'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.decoding import header_sizes


def stored_or_upright(path: Path, images: Mapping[Path, Mapping[str, Any]]) -> bool:
    """Whether a JSON is of images that are turned as their EXIF orientation says.

    Only headers are read. Images without a readable one are passed over.

    Args:
        path: the JSON, for messages.
        images: {file: entry with width and height}; one without both is not compared.

    Raises:
        ValueError: names an image whose size is neither that of its stored pixels nor that of the
            upright image, or two that say different things.
    """
    says: dict[bool, Path] = {}
    for file, entry in images.items():
        given = entry.get("width"), entry.get("height")
        if None in given or (found := header_sizes(file)) is None:
            continue
        stored, upright = found
        if given not in found:
            raise ValueError(
                f"{path} says that {entry['file_name']} is {given[0]} x {given[1]} pixels, but the "
                f"file has {stored[0]} x {stored[1]}: its boxes do not fit. Use the images that "
                "the JSON was written for, or correct it"
            )
        if stored != upright:
            says.setdefault(given == upright, file)
    if len(says) > 1:
        raise ValueError(
            f"{path} has the size of {says[True]} as it is turned by its EXIF orientation, but "
            f"that of {says[False]} as it is stored: correct one of them"
        )
    return True in says
