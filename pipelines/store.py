"""Run once, cache, resume.

An artifact is a folder `<root>/<stage>/<key>/` with `tensors.safetensors`, `record.json` and, renamed
into place last, `done.json` with the checksums of the other two. A folder without `done.json`, or
with files that do not fit it, counts as absent. One run computes, others that want the same
artifact wait on a file lock; the operating system frees the lock of a process that died.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from safetensors.torch import save_file

from pipelines import fingerprint
from pipelines.artifacts import Artifact, TensorFile


class Input(Protocol):
    """Anything that a stage takes: an artifact, a network, a data set."""

    @property
    def key(self) -> str:
        """What the stage's result depends on; empty for nothing."""
        ...


@dataclass(frozen=True)
class Store:
    """Artifacts by what they were computed from.

    Attributes:
        root: folder, made when it is not there.
        say: told when this run waits for another one, or finds a damaged artifact.
    """

    root: Path
    say: Callable[[str], None] = lambda message: None

    def run(self, stage: Any, *inputs: Input) -> Artifact:
        """`stage.run(*inputs)`, or what an earlier run of it left here.

        A stage whose `run` has a parameter `scratch` gets a folder that survives until the artifact
        is complete, so that it can go on where it was killed.
        """
        name = type(stage).__name__
        key = fingerprint.key(stage, (i.key for i in inputs))
        folder = self.root / name / key
        found = self._load(folder, key)
        if found is not None:
            return found
        with self._locked(folder):
            found = self._load(folder, key)  # another run may have finished it meanwhile
            if found is not None:
                return found
            scratch = folder.with_name(f"{key}.partial")
            extra = {}
            if "scratch" in inspect.signature(stage.run).parameters:
                scratch.mkdir(parents=True, exist_ok=True)
                extra["scratch"] = scratch
            start = time.perf_counter()
            artifact = stage.run(*inputs, **extra)
            artifact = replace(artifact, key=key, seconds=time.perf_counter() - start)
            _write(folder, artifact)
            shutil.rmtree(scratch, ignore_errors=True)
            return replace(artifact, tensors=TensorFile(folder / "tensors.safetensors"))

    def has(self, stage: Any, *inputs: Input) -> bool:
        """Whether `run` would find its artifact here (its files are not read)."""
        key = fingerprint.key(stage, (i.key for i in inputs))
        return (self.root / type(stage).__name__ / key / "done.json").is_file()

    def _load(self, folder: Path, key: str) -> Artifact | None:
        try:
            done = json.loads((folder / "done.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            done = {"sha256": {"done.json": "unreadable"}, "seconds": 0}
        for file, digest in done["sha256"].items():
            if not (folder / file).is_file() or checksum(folder / file) != digest:
                self.say(f"stored result {folder} is damaged ({file}): computing it again")
                return None
        record = json.loads((folder / "record.json").read_text())
        tensors = TensorFile(folder / "tensors.safetensors")
        return Artifact(tensors, record, key, cached=True, seconds=done["seconds"])

    def _locked(self, folder: Path) -> FileLock:
        """The lock of one artifact, taken; says so when it has to wait."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            self.say(f"another run is computing {folder.parent.name}: waiting for it")
            lock.acquire()
        return lock


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, artifact: Artifact) -> None:
    """All of the artifact or nothing: `done.json` appears last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in artifact.tensors.items()}
    try:
        save_file(tensors, folder / "tensors.safetensors")
        (folder / "record.json").write_text(json.dumps(artifact.record))
        digests = {f: checksum(folder / f) for f in ("tensors.safetensors", "record.json")}
        draft = folder / "done.json.new"
        draft.write_text(json.dumps({"sha256": digests, "seconds": artifact.seconds}))
        os.replace(draft, folder / "done.json")
    except Exception as err:
        shutil.rmtree(folder, ignore_errors=True)
        if is_full(err):
            raise OSError(
                errno.ENOSPC,
                f"no space left for {folder}: free some, or point OBLIQ_CACHE at another disk. "
                "What was stored before stays valid, and the same command goes on from there",
            ) from err
        raise


def is_full(err: BaseException) -> bool:
    """Whether an error says that the disk is full (safetensors has its own way to say so)."""
    return getattr(err, "errno", None) == errno.ENOSPC or "No space left" in str(err)
