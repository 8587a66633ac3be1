"""COCO's `instances_*.json`: images, categories and annotations in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.boxes import Box, BoxFolder, Objects, clip
from evaluation.coco_sizes import stored_or_upright
from evaluation.decoding import decode_file, decode_upright
from evaluation.image_files import Spellings, images_below, inside, size_of
from evaluation.image_files import read as content_of
from evaluation.samples import Files, Samples

Entry = Mapping[str, Any]


def read(path: Path, places: Sequence[Path], names: Sequence[str] | None = None) -> BoxFolder:
    """Index all images of a JSON and read their boxes.

    The class index is the rank of the category id. Boxes are clipped to the image size in the JSON;
    those outside or without area are dropped and counted. `iscrowd` (default: 0) and `area`
    (default: area of the box) are optional. Images that the JSON does not list are ignored.

    The sizes in the JSON must be those of the files. They also say whether its boxes are of the
    stored images, as in COCO, or of images turned as their EXIF orientation says.

    Args:
        path: the JSON. Required: `images` with id, file_name, width, height; `categories` with id,
            name; `annotations` with image_id, category_id, bbox (x, y, width, height in pixels).
        places: candidate image folders; the first one that contains any of the images is used.
        names: class names in the order of the category ids, in place of those in the JSON.

    Raises:
        ValueError: the file is missing or not a JSON, a required entry is missing or invalid, or
            images are missing, lie elsewhere or have another size.
    """
    content = _load(path)
    categories = _by_id(path, content, "categories")
    images = _by_id(path, content, "images")
    if not images:
        raise ValueError(f"{path} lists no images")
    indices = {identity: index for index, identity in enumerate(sorted(categories))}
    objects: dict[int, list[Box]] = {identity: [] for identity in images}
    dropped = 0
    for number, entry in enumerate(_entries(path, content, "annotations")):
        where = f"{path} annotations[{number}]"
        image = _known(where, entry, "image_id", images)
        index = indices[_known(where, entry, "category_id", categories)]
        box = _box(where, entry, index, _size(path, images[image]))
        if box:
            objects[image].append(box)
        else:
            dropped += 1
    named = _by_name(path, images, objects)
    own = tuple(str(_value(path, categories[identity], "name")) for identity in indices)
    if names is not None and len(names) != len(own):
        raise ValueError(f"data.names has {len(names)} names, but {path} has {len(own)} categories")
    listed = {str(entry["file_name"]): entry for entry in images.values()}
    samples = _samples(path, places, named, listed)
    return BoxFolder(samples, own if names is None else tuple(names), dropped)


def _samples(
    path: Path, places: Sequence[Path], objects: Mapping[str, Objects], images: Mapping[str, Entry]
) -> Samples:
    ids = sorted(objects)
    folders = [place for place in places if place.is_dir()]
    folder = next((f for f in folders if any((f / name).is_file() for name in ids)), None)
    if folder is None:
        folder = next((f for f in folders if any(_files(f, ids).values())), None)
    files = _files(folder, ids) if folder else {}
    absent = [name for name in ids if not files.get(name)]
    if folder is None or absent:
        searched = folder or ", ".join(map(str, places))
        raise ValueError(
            f"{path} lists {len(absent)} of {len(ids)} images that are not in {searched}: "
            f"{', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}. "
            "Add them, or remove them from the list"
        )
    upright = stored_or_upright(path, {folder / files[name]: images[name] for name in ids})
    return Samples(
        ids=tuple(files[name] for name in ids),
        labels=tuple(objects[name] for name in ids),
        blob=Files(folder),
        decode=decode_upright if upright else decode_file,
        sizes=tuple(size_of(folder / files[name]) for name in ids),
    )


def _files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """{name in the JSON: path of the file}: as it is, with other slashes, in another Unicode form.

    "" where there is no such file.
    """
    found = {name: name if _there(folder / name) else "" for name in names}
    if not all(found.values()):
        spellings = Spellings(images_below(folder))
        for name in [name for name, file in found.items() if not file]:
            found[name] = spellings.find(name) or spellings.find(name.replace("\\", "/")) or ""
    return found


def _there(file: Path) -> bool:
    """Whether there is such a file, or a link to nowhere or a FIFO: those are reported later."""
    return file.is_symlink() or (file.exists() and not file.is_dir())


def _load(path: Path) -> Entry:
    try:
        content = json.loads(content_of(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Is the file complete?") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected a JSON object")
    return content


def _entries(path: Path, content: Entry, key: str) -> list[Entry]:
    entries = _value(path, content, key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} `{key}` must be a list of objects")
    return entries


def _by_id(path: Path, content: Entry, key: str) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for number, entry in enumerate(_entries(path, content, key)):
        identity = _value(f"{path} {key}[{number}]", entry, "id")
        if type(identity) is not int or identity in found:
            raise ValueError(
                f"{path} {key}[{number}] has the id {identity!r}: ids must be unique integers"
            )
        found[identity] = entry
    return found


def _by_name(
    path: Path, images: Mapping[int, Entry], objects: Mapping[int, list[Box]]
) -> dict[str, Objects]:
    found: dict[str, Objects] = {}
    for identity, entry in images.items():
        where = f"{path} image {identity}"
        name = inside(str(_value(where, entry, "file_name")), where)
        if name in found:
            raise ValueError(f"{path} lists {name} twice")
        found[name] = tuple(objects[identity])
    return found


def _value(where: object, entry: Entry, key: str) -> Any:
    if key not in entry:
        raise ValueError(f"{where} has no `{key}`: is this a COCO instances file?")
    return entry[key]


def _known(where: str, entry: Entry, key: str, known: Mapping[int, Entry]) -> int:
    identity = _value(where, entry, key)
    if type(identity) is not int or identity not in known:
        raise ValueError(f"{where} has the {key} {identity!r}, which the file does not list")
    return identity


def _size(path: Path, image: Entry) -> tuple[float, float]:
    where = f"{path} image {image['id']}"
    size = _number(where, image, "width"), _number(where, image, "height")
    if min(size) <= 0:
        raise ValueError(f"{where} is {size[0]:g} x {size[1]:g} pixels: both must be positive")
    return size


def _number(where: str, entry: Entry, key: str) -> float:
    value = _value(where, entry, key)
    if not _is_number(value):
        raise ValueError(f"{where} has {key}={value!r}: expected a number")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _box(where: str, entry: Entry, index: int, size: tuple[float, float]) -> Box | None:
    bbox = _value(where, entry, "bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise ValueError(f"{where} has bbox={bbox!r}: expected x, y, width, height in pixels")
    x, y, width, height = map(float, bbox)
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"{where} has iscrowd={crowd!r}: expected 0 or 1")
    area = None if entry.get("area") is None else _number(where, entry, "area")
    return clip(index, (x, y, x + width, y + height), size, int(crowd), area)
