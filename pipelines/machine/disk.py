"""What a disk may do to a file: get full, refuse, lose what was not written through."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

DRAFT = ".new-"  # begins the name of a file that is not whole yet


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft of `path`, which takes its place when the block has ended well: all or nothing."""
    draft = path.with_name(f"{DRAFT}{path.name}")
    try:
        yield draft
        write_through(draft)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_through(path: Path) -> None:
    """Return when a file or the names in a folder are on the disk, whatever becomes of the power.

    A rename may reach the disk before the content of the file that was renamed.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn what the store's disk may answer into what a person can do about it."""
    with explained(folder, "the store", "point OBLIQ_CACHE at"):
        yield


@contextmanager
def explained(folder: Path, who: str, remedy: str) -> Iterator[None]:
    """Say what could not be written, and the remedy: another disk or folder.

    Raises:
        OSError: for what the disk has answered.
    """
    try:
        yield
    except (OSError, SafetensorError) as err:
        number = errno.ENOSPC if is_full(err) else getattr(err, "errno", None) or errno.EIO
        what = (
            f"no space left for {folder}: free some, or {remedy} another disk"
            if is_full(err)
            else f"{who} cannot write {folder} ({getattr(err, 'strerror', None) or err}): "
            f"{remedy} a folder that can be written"
        )
        raise OSError(
            number,
            f"{what}. What was stored before stays valid, and the same command goes on from there",
        ) from err


def is_full(err: BaseException) -> bool:
    """Whether an error says that the disk is full (safetensors has its own way to say so)."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(err, "errno", None) in full or "No space left" in str(err)
