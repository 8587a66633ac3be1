"""Safe file writes: atomic replacement, fsync, and errors that explain a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

DRAFT = ".new-"  # prefix of files that are still being written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft of `path` that replaces it atomically when the block ends without an error."""
    draft = path.with_name(f"{DRAFT}{path.name}")
    try:
        yield draft
        fsync(draft)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk.

    Without it, a rename may reach the disk before the content of the renamed file.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def with_usual_mode(path: Path) -> None:
    """Give a file the permissions that the umask asks for: safetensors' own are the owner's."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """`explained` for the store's disk."""
    with explained(folder, "the store", "point OBLIQ_CACHE at"):
        yield


@contextmanager
def explained(folder: Path, who: str, remedy: str) -> Iterator[None]:
    """Turn errors of the disk into messages that name the folder and the remedy.

    Args:
        folder: folder that is written.
        who: its name in the message.
        remedy: setting that selects another folder, as in "point OBLIQ_CACHE at".

    Raises:
        OSError: the disk is full or cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as err:
        number = errno.ENOSPC if is_full(err) else getattr(err, "errno", None) or errno.EIO
        what = (
            f"no space left for {folder}: free some space, or {remedy} another disk"
            if is_full(err)
            else f"{who} cannot write {folder} ({getattr(err, 'strerror', None) or err}): "
            f"{remedy} a writable folder"
        )
        raise OSError(
            number,
            f"{what}. Results stored so far stay valid, and the same command resumes from there",
        ) from err


def is_full(err: BaseException) -> bool:
    """Whether an error means that the disk is full; safetensors reports it in its own way."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(err, "errno", None) in full or "No space left" in str(err)
