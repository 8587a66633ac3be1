"""Files of a data set: found below a folder, read without ever waiting for one."""

from __future__ import annotations

import codecs
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(path: Path) -> bytes:
    """Content of a regular file.

    Raises:
        OSError: it is missing or cannot be read, or is a FIFO, a socket or a device, which could
            keep the reader waiting for ever.
    """
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is a FIFO or a device: use a regular file")
        return file.read()


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def text_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, with or without a byte order mark, with any line ends.

    Raises:
        OSError: see `read`.
        ValueError: the file has another encoding.
    """
    content = read(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "UTF-16" if content.startswith(UTF16) else f"not UTF-8 (byte {error.start})"
        raise ValueError(f"{path} is {found}: save it as UTF-8") from error
    lines = re.split(r"\r\n|\n|\r", text)
    return lines if lines[-1] else lines[:-1]


def images_below(
    folder: Path, deep: bool = True, suffixes: tuple[str, ...] = SUFFIXES
) -> dict[str, int]:
    """{path relative to the folder: size in bytes} of its image files, without hidden ones.

    Links are followed, but never in a circle. What has an image's name and cannot be read, such as
    a link to nowhere or a FIFO, is listed with the size 0, so that it is reported when the images
    are checked.

    Args:
        deep: look into subfolders too, as torchvision, timm and ultralytics do.
    """
    found: dict[str, int] = {}
    todo = [("", folder, frozenset[tuple[int, int]]())]
    while todo:
        prefix, here, above = todo.pop()
        status = os.stat(here)
        if (place := (status.st_dev, status.st_ino)) in above:
            continue
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if deep:
                        todo.append((f"{prefix}{entry.name}/", Path(entry.path), above | {place}))
                elif entry.name.lower().endswith(suffixes):
                    found[prefix + entry.name] = entry.stat().st_size if entry.is_file() else 0
    return found


def size_of(file: Path) -> int:
    """Size in bytes; 0 if it cannot be read, which is reported when the images are checked."""
    return file.stat().st_size if file.is_file() else 0


def inside(name: str, where: object) -> str:
    """A file's path as a list gives it, checked to stay in the list's folder.

    Raises:
        ValueError: it is absolute or leads out of the folder.
    """
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise ValueError(
            f"{where} names the file {name!r}, which lies outside the data set's folder: use paths "
            "relative to that folder"
        )
    return name


class Spellings:
    """Names of files, found whatever their Unicode form: macOS writes é as two characters."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_form = {composed(name): name for name in self._names}

    def find(self, name: str) -> str | None:
        """The name as the file has it; None if there is no such file."""
        return name if name in self._names else self._by_form.get(composed(name))


def composed(name: str) -> str:
    """The name in the form NFC."""
    return unicodedata.normalize("NFC", name)
