"""sha256 of files, remembered between runs as long as nothing about the file has changed.

A digest counts for a path with the same size, modification time, inode and change time. One taken
while the file was so young that a later change could leave its times as they are is not remembered.
The index is a text file that only grows at its end, so that several processes can share it; a line
that was cut off or damaged does not fit its own checksum and is ignored.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from evaluation.image_files import read

GRANULARITY = 2 * 10**9  # ns: of the coarsest times of files in use (FAT)
THREADS = 8
FOLD = 4  # times as many lines as files: the index is written again without the old ones
Stamp = tuple[int, int, int, int]


class ContentIndex:
    """Digests by path.

    Args:
        file: where they are remembered; None: for this process only.
        now: the time in ns since the epoch, by the clock that files' times are of.
    """

    def __init__(self, file: Path | None = None, now: Callable[[], int] = time.time_ns) -> None:
        self.file, self.now = file, now
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._new: list[str] = []
        if file is not None:
            self._read(file)

    def digest(self, path: Path) -> str:
        """sha256 of the file's bytes, in hexadecimal digits.

        Raises:
            OSError: it cannot be read, or is no regular file.
        """
        name = os.path.abspath(path)
        started = self.now()
        stamp = _stamp(name)
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = hashlib.sha256(read(path)).hexdigest()
        if _stamp(name) == stamp and max(stamp[1], stamp[3]) < started - GRANULARITY:
            self._known[name] = (stamp, found)
            self._new.append(_line(name, stamp, found))
        return found

    def known(self, path: Path) -> str | None:
        """`digest` where it is remembered and the file is as it was; else None."""
        name = os.path.abspath(path)
        with suppress(OSError):
            stamp, found = self._known.get(name, (None, ""))
            return found if stamp == _stamp(name) else None
        return None

    def save(self) -> None:
        """Append what is new. An index that cannot be written costs time, nothing else."""
        if self.file is None or not self._new:
            return
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write("".join(self._new))
        self._new.clear()

    def _read(self, file: Path) -> None:
        try:
            lines = file.read_text("utf-8", errors="surrogateescape").split("\n")
        except OSError:
            return
        for line in lines:
            if (parsed := _parsed(line)) is not None:
                name, stamp, digest = parsed
                self._known[name] = (stamp, digest)
        if len(lines) > FOLD * len(self._known) + 1000:
            self._fold(file)

    def _fold(self, file: Path) -> None:
        """Write the index again with one line a file; what others append meanwhile is lost."""
        draft = file.with_name(f"{file.name}.{os.getpid()}.new")
        text = "".join(_line(name, *entry) for name, entry in self._known.items())
        with suppress(OSError):
            draft.write_text(text, "utf-8", errors="surrogateescape")
            draft.replace(file)


def _stamp(name: str) -> Stamp:
    found = os.stat(name)
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns


def _line(name: str, stamp: Stamp, digest: str) -> str:
    text = f"{digest} {' '.join(map(str, stamp))} {name.encode('unicode_escape').decode()}"
    return f"{_checksum(text)} {text}\n"


def _parsed(line: str) -> tuple[str, Stamp, str] | None:
    checksum, _, text = line.partition(" ")
    if not text or checksum != _checksum(text):
        return None
    digest, size, modified, inode, changed, name = text.split(" ", 5)
    stamp = (int(size), int(modified), int(inode), int(changed))
    return name.encode().decode("unicode_escape"), stamp, digest


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x}"


index = ContentIndex()  # of this process; see `remember`


def remember(file: Path) -> None:
    """Keep the digests of this process in `file` from now on, and take those that are there."""
    global index
    index = ContentIndex(file)


def digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits; "" for a file that cannot be read."""
    try:
        return index.digest(path)
    except OSError:
        return ""


def digests(paths: Sequence[Path]) -> list[str]:
    """`digest` of each; new files are read in several threads."""
    found = [index.known(path) for path in paths]
    new = [number for number, known in enumerate(found) if known is None]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for number, read in zip(new, pool.map(digest, [paths[n] for n in new]), strict=True):
            found[number] = read
    index.save()
    return [each or "" for each in found]
