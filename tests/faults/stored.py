"""What a store holds, read without the store's own code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FILES = ("tensors.safetensors", "record.json")


def whole(store: Path) -> dict[str, tuple[int, int]]:
    """Artifacts that are complete, "Stage/key": when their record was written, and its inode."""
    found = {}
    for done in store.glob("*/*/done.json"):
        folder = done.parent
        if "." not in folder.name and is_whole(folder):
            stat = (folder / "record.json").stat()
            found[f"{folder.parent.name}/{folder.name}"] = stat.st_mtime_ns, stat.st_ino
    return found


def is_whole(folder: Path) -> bool:
    """Whether the files have the checksums that done.json says."""
    try:
        digests = json.loads((folder / "done.json").read_bytes())["sha256"]
        return all(digests[f] == digest(folder / f) for f in FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def tensors(store: Path) -> dict[str, str]:
    """Digest of the tensors of every artifact, "Stage/key"."""
    files = store.glob("*/*/tensors.safetensors")
    return {f"{f.parent.parent.name}/{f.parent.name}": digest(f) for f in files}


def leftovers(store: Path) -> list[str]:
    """What is neither an artifact nor a lock: parts and drafts."""
    known = {"done.json", *FILES}
    return sorted(
        str(path.relative_to(store))
        for path in store.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name not in known
    )


def digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
