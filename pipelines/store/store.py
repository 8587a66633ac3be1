"""Run once, cache, resume.

An artifact is a folder `<root>/<stage>/<key>/` with `tensors.safetensors`, `record.json` and,
renamed into place last, `done.json` with the checksums of the other two and the artifact's own key.
A folder without `done.json`, or whose checksums or key do not match, counts as absent; whatever
else lies at its place is replaced. One run computes an artifact; others
that need it wait on a file lock, which the operating system releases if the process dies.

With several processes in a run, rank 0 looks up artifacts, holds the lock and writes; the others
read what it wrote. A stage whose class has `ON_ALL_RANKS = True` runs on all of them, any other
stage on rank 0 only. Only `run_each` computes different artifacts at the same time.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout
from safetensors.torch import save_file

from pipelines.machine import clock, random_numbers
from pipelines.machine.disk import checksum, fsync, storing, with_usual_mode
from pipelines.machine.ranks import Ranks
from pipelines.store import fingerprint
from pipelines.store.artifacts import Artifact, TensorFile
from pipelines.store.sharing import for_the_group

FILES = ("tensors.safetensors", "record.json")  # of an artifact, in addition to done.json
Item = TypeVar("Item")
Result = TypeVar("Result")
FSYNC_FROM = 1.0  # seconds of computing that make an fsync worth its milliseconds


class Input(Protocol):
    """An input of a stage: an artifact, a network, a data set."""

    @property
    def key(self) -> str:
        """Key of what the stage's result depends on; empty if it does not depend on the input."""
        ...


class LockedError(Exception):
    """Another run is computing this artifact."""


@dataclass(frozen=True)
class Store:
    """Artifacts, looked up by stage and inputs.

    Attributes:
        root: folder of the store, created if missing.
        log: receives a message when this run waits for another one or finds a damaged artifact.
        ranks: this process among those of its run.
        wait: wait for a run that is computing the artifact; else raise a LockedError.
    """

    root: Path
    log: Callable[[str], None] = lambda message: None
    ranks: Ranks = field(default_factory=Ranks)
    wait: bool = True

    def run(self, stage: Any, *inputs: Input) -> Artifact:
        """The stored result of `stage.run(*inputs)`, computed if missing.

        A stage whose `run` has a parameter `scratch` gets a folder that is kept until the artifact
        is complete, so that it can resume.

        Raises:
            LockedError: without `wait`, if another run is computing the artifact.
        """
        name = type(stage).__name__
        key = fingerprint.key(stage, inputs)
        folder = self.root / name / key
        _mark_used(folder)  # before reading: protects it from removal
        if self.ranks.rank:
            return self._follow(stage, inputs, folder, key)
        with ExitStack() as held:
            found = self._load(folder, key)
            if found is None:
                held.enter_context(self._locked(folder))
                found = self._load(folder, key, self.log)  # another run may have finished it by now
            self.ranks.broadcast((key, found is not None))
            if found is None:
                found = self._compute(stage, inputs, folder, key)
                self.ranks.broadcast(key)
        return found

    def _follow(self, stage: Any, inputs: tuple[Input, ...], folder: Path, key: str) -> Artifact:
        """The artifact that rank 0 loads or computes, on another rank."""
        expected, cached = self.ranks.broadcast((key, False))
        if expected != key:
            raise ValueError(
                f"the processes of this run do not have the same inputs for {folder.parent.name}: "
                "a file may have changed during the run. Start it again"
            )
        if not cached:
            if getattr(stage, "ON_ALL_RANKS", False):
                with random_numbers.seeded(key):
                    stage.run(*inputs, **self._scratch(stage, folder))
            self.ranks.broadcast(key)
        found = self._load(folder, key)
        if found is None:
            raise ValueError(
                f"the artifact that was just stored in {folder} cannot be read by all processes: "
                "set OBLIQ_CACHE to a folder that all of them can read"
            )
        return replace(found, cached=cached)

    def run_each(
        self,
        stage: Any,
        inputs: Sequence[tuple[Input, ...]],
        costs: Sequence[float],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Artifact]:
        """`run` for each of several inputs; every process computes a share of them.

        Args:
            stage: a stage that runs on a single process.
            inputs: inputs of each run.
            costs: relative cost of each run, for load balancing.
            advance: called with the number of finished runs, of all processes.

        Returns:
            the artifacts, in the order of `inputs`.
        """

        def compute(store: Store, run_inputs: tuple[Input, ...]) -> Artifact:
            return store.run(stage, *run_inputs)

        if not self.ranks.distributed:
            return self.map_locked_last(compute, inputs, advance)
        own = self.single_process
        cached = self.ranks.broadcast([own.has(stage, *i) for i in inputs])
        missing = [n for n, stored in enumerate(cached) if not stored]
        advance(len(inputs) - len(missing))
        share = self.ranks.assigned([costs[n] for n in missing])
        self.map_locked_last(compute, [inputs[missing[n]] for n in share], advance)
        self.ranks.gather(None)  # a barrier: all have stored their share
        advance(len(missing) - len(share))
        pairs = zip(inputs, cached, strict=True)
        return [replace(own.run(stage, *i), cached=stored) for i, stored in pairs]

    def map_locked_last(
        self,
        compute: Callable[[Store, Item], Result],
        items: Iterable[Item],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Result]:
        """compute(store, item) for each item, on this process only; results in order of the items.

        Items that another run is computing come last, so that two runs with the same items share
        the work instead of waiting for each other item by item.
        """
        left: dict[int, Item] = dict(enumerate(items))
        results: dict[int, Result] = {}
        while left:
            before = len(left)
            for index, item in list(left.items()):
                with suppress(LockedError):
                    results[index] = compute(self.without_waiting, item)
                    del left[index]
                    advance(1)
            if len(left) == before:
                index = min(left)
                results[index] = compute(self.single_process, left.pop(index))
                advance(1)
        return [results[index] for index in sorted(results)]

    @property
    def single_process(self) -> Store:
        """This store, for work that one process does without the others."""
        return replace(self, ranks=Ranks())

    @property
    def without_waiting(self) -> Store:
        """`single_process` that raises a LockedError instead of waiting for another run."""
        return replace(self.single_process, wait=False)

    def _scratch(self, stage: Any, folder: Path) -> dict[str, Path]:
        resumable = "scratch" in inspect.signature(stage.run).parameters
        return {"scratch": folder.with_name(f"{folder.name}.partial")} if resumable else {}

    def _compute(self, stage: Any, inputs: tuple[Input, ...], folder: Path, key: str) -> Artifact:
        scratch = self._scratch(stage, folder)
        for path in scratch.values():
            with storing(path), for_the_group(self.root):
                _clear(path, os.path.isdir)
                path.mkdir(parents=True, exist_ok=True)
        start = clock.seconds()
        with random_numbers.seeded(key):
            artifact: Artifact = stage.run(*inputs, **scratch)
        artifact = replace(
            artifact,
            key=key,
            seconds=clock.seconds() - start,
            versions=fingerprint.versions(fingerprint.modules(stage, inputs)),
        )
        with storing(folder), for_the_group(self.root):
            _write(folder, artifact, artifact_keys(i.key for i in inputs))
        for path in scratch.values():
            shutil.rmtree(path, ignore_errors=True)
        return replace(artifact, tensors=TensorFile(folder / "tensors.safetensors"))

    def has(self, stage: Any, *inputs: Input) -> bool:
        """Whether `run` would find its artifact here (its files are not read)."""
        key = fingerprint.key(stage, inputs)
        return (self.root / type(stage).__name__ / key / "done.json").is_file()

    def _load(
        self, folder: Path, key: str, log: Callable[[str], None] = lambda message: None
    ) -> Artifact | None:
        try:
            text = (folder / "done.json").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:  # a folder, a link that leads to itself, a file instead of a folder
            log(f"stored result {folder} is damaged ({err.strerror}): computing it again")
            return None
        try:
            digests, done = _parse_done(text, _name(folder))
            for file, digest in digests.items():
                if checksum(folder / file) != digest:
                    raise ValueError(file)
            record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            tensors = TensorFile(folder / "tensors.safetensors")
        except (OSError, ValueError) as err:  # missing, just removed, or changed
            log(f"stored result {folder} is damaged ({err}): computing it again")
            return None
        seconds, versions = float(done["seconds"]), dict(done["versions"])
        return Artifact(tensors, record, key, cached=True, seconds=seconds, versions=versions)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the lock of one artifact; logs that it waits."""
        with storing(folder), for_the_group(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            place = folder.with_name(f"{folder.name}.lock")
            _clear(place, os.path.isfile)
            lock = FileLock(place)
            try:
                lock.acquire(timeout=0)
                waited = False
            except Timeout:
                waited = True
        if waited and not self.wait:
            raise LockedError(folder.parent.name)
        if waited:
            self.log(f"another run is computing {folder.parent.name}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def artifact_keys(keys: Iterable[str]) -> list[str]:
    """Keys of the artifacts that are named in the keys of a stage's inputs."""
    return sorted({key for text in keys for key in re.findall(r"\b[0-9a-f]{32}\b", text)})


def _mark_used(folder: Path) -> None:
    """Set the time of last use, the mtime of done.json, if there is one."""
    with suppress(OSError):  # another user's, or read-only: then we cannot remove it either
        os.utime(folder / "done.json")


def _name(folder: Path) -> str:
    """What the artifact at this place must be: its stage and key."""
    return f"{folder.parent.name}/{folder.name}"


def _parse_done(text: bytes, name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Checksums, and all else, of the done.json of artifact `name`.

    Raises:
        ValueError: the content is damaged, or is that of another artifact.
    """
    try:
        done = json.loads(text)
        own = done.pop("own")
        if own != _own_checksum(done):
            raise ValueError
        found = {f: str(done["sha256"][f]) for f in FILES}, dict(done)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("done.json") from None
    if done.get("artifact") != name:
        raise ValueError(f"it is a copy of {done.get('artifact')}")
    return found


def _clear(path: Path, keep: Callable[[Path], bool]) -> None:
    """Remove what is at the place of an artifact's file or folder and is none.

    Another run may be making it right now: what is not there at the first look is left alone.
    """
    if not os.path.lexists(path) or keep(path):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _own_checksum(done: Mapping[str, Any]) -> str:
    """Checksum of the content of done.json."""
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, artifact: Artifact, inputs: list[str]) -> None:
    """Write an artifact atomically: `done.json` appears last.

    Files that another process may be reading are replaced, never truncated. Results that were quick
    to compute need not survive a power failure: the checksums reveal a loss.
    """
    draft = folder.with_name(f"{folder.name}.new")
    _clear(folder, os.path.isdir)
    _clear(draft, lambda path: False)
    for name in (*FILES, "done.json"):
        _clear(folder / name, os.path.isfile)
    draft.mkdir(parents=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in artifact.tensors.items()}
    try:
        save_file(tensors, draft / "tensors.safetensors")
        with_usual_mode(draft / "tensors.safetensors")
        (draft / "record.json").write_text(json.dumps(artifact.record), encoding="utf-8")
        digests = {f: checksum(draft / f) for f in FILES}
        done = {
            "artifact": _name(folder),
            "sha256": digests,
            "seconds": artifact.seconds,
            "inputs": inputs,
            "versions": dict(artifact.versions),
        }
        (draft / "done.json").write_text(json.dumps({**done, "own": _own_checksum(done)}))
        folder.mkdir(exist_ok=True)
        lasting = artifact.seconds > FSYNC_FROM
        for name in (*FILES, "done.json"):
            if lasting:
                fsync(draft / name)
            os.replace(draft / name, folder / name)
        if lasting:
            fsync(folder)
            fsync(folder.parent)
    except BaseException:
        if not (folder / "done.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
