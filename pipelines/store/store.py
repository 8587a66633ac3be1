"""Run once, cache, resume.

An artifact is a folder `<root>/<stage>/<key>/` with `tensors.safetensors`, `record.json` and,
renamed into place last, `done.json` with the checksums of the other two. A folder without
`done.json`, or with files that do not fit it, counts as absent. One run computes, others that
want the same artifact wait on a file lock; the operating system frees the lock of a process that
died.

Of several processes of one run, rank 0 says what is stored, holds the lock and writes; the others
read what it has written. A stage whose class has `TOGETHER = True` is run by all of them, any other
one by rank 0 alone. Only `run_each` computes different artifacts at the same time.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout
from safetensors.torch import save_file

from evaluation.task import ImageTask
from pipelines.machine.disk import checksum, storing, write_through
from pipelines.machine.ranks import Ranks
from pipelines.store import fingerprint
from pipelines.store.artifacts import Artifact, Keyed, TensorFile

FILES = ("tensors.safetensors", "record.json")  # of an artifact, beside done.json
Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH = 1.0  # seconds of computing that are worth the milliseconds of writing through to the disk


class Input(Protocol):
    """Anything that a stage takes: an artifact, a network, a data set."""

    @property
    def key(self) -> str:
        """What the stage's result depends on; empty for nothing."""
        ...


class LockedError(Exception):
    """Another run is computing this artifact."""


@dataclass(frozen=True)
class Store:
    """Artifacts by what they were computed from.

    Attributes:
        root: folder, made when it is not there.
        say: told when this run waits for another one, or finds a damaged artifact.
        ranks: this process among those of its run.
        patient: wait for other runs that compute what is wanted; else raise a TakenError.
    """

    root: Path
    say: Callable[[str], None] = lambda message: None
    ranks: Ranks = field(default_factory=Ranks)
    patient: bool = True

    def run(self, stage: Any, *inputs: Input) -> Artifact:
        """`stage.run(*inputs)`, or what an earlier run of it left here.

        A stage whose `run` has a parameter `scratch` gets a folder that survives until the artifact
        is complete, so that it can go on where it was killed.
        """
        name = type(stage).__name__
        key = _key(stage, inputs)
        folder = self.root / name / key
        _mark_used(folder)  # before it is read: what was just used is not taken away
        if self.ranks.rank:
            return self._follow(stage, inputs, folder, key)
        with ExitStack() as held:
            found = self._load(folder, key)
            if found is None:
                held.enter_context(self._locked(folder))
                found = self._load(folder, key, self.say)  # another run may have finished it by now
            self.ranks.broadcast((key, found is not None))
            if found is None:
                found = self._compute(stage, inputs, folder, key)
                self.ranks.broadcast(key)
        return found

    def _follow(self, stage: Any, inputs: tuple[Input, ...], folder: Path, key: str) -> Artifact:
        """What rank 0 finds or computes, where this process is another one."""
        wanted, cached = self.ranks.broadcast((key, False))
        if wanted != key:
            raise ValueError(
                f"the processes of this run do not have the same inputs for {folder.parent.name}: "
                "was a file changed meanwhile? Start it again"
            )
        if not cached:
            if getattr(stage, "TOGETHER", False):
                stage.run(*inputs, **self._scratch(stage, folder))
            self.ranks.broadcast(key)
        found = self._load(folder, key)
        if found is None:
            raise ValueError(f"what was just stored in {folder} cannot be read by all processes")
        return replace(found, cached=cached)

    def run_each(
        self,
        stage: Any,
        inputs: Sequence[tuple[Input, ...]],
        costs: Sequence[float],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Artifact]:
        """`run` for each of the inputs, in any order; every process computes its share of them.

        Args:
            stage: computes by itself, without the other processes.
            inputs: of each run.
            costs: of each, in any unit.
            advance: told of each that is done, whoever did it.
        """

        def compute(store: Store, given: tuple[Input, ...]) -> Artifact:
            return store.run(stage, *given)

        if not self.ranks.several:
            return self.in_any_order(compute, inputs, advance)
        alone = self.alone
        cached = self.ranks.broadcast([alone.has(stage, *i) for i in inputs])
        missing = [n for n, there in enumerate(cached) if not there]
        advance(len(inputs) - len(missing))
        share = self.ranks.mine([costs[n] for n in missing])
        self.in_any_order(compute, [inputs[missing[n]] for n in share], advance)
        self.ranks.gather(None)  # all are done
        advance(len(missing) - len(share))
        pairs = zip(inputs, cached, strict=True)
        return [replace(alone.run(stage, *i), cached=there) for i, there in pairs]

    def in_any_order(
        self,
        work: Callable[[Store, Item], Result],
        items: Iterable[Item],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Result]:
        """work(store, item) for each, by this process alone.

        What another run is at meanwhile comes last: two runs that want the same go on side by side
        instead of waiting for each other item by item.
        """
        left: dict[int, Item] = dict(enumerate(items))
        found: dict[int, Result] = {}
        while left:
            before = len(left)
            for number, item in list(left.items()):
                with suppress(LockedError):
                    found[number] = work(self.without_waiting, item)
                    del left[number]
                    advance(1)
            if len(left) == before:
                number = min(left)
                found[number] = work(self.alone, left.pop(number))
                advance(1)
        return [found[number] for number in sorted(found)]

    @property
    def alone(self) -> Store:
        """The same, for what one process computes without the others."""
        return replace(self, ranks=Ranks())

    @property
    def without_waiting(self) -> Store:
        """`alone`, but not waiting for another run."""
        return replace(self.alone, patient=False)

    def _scratch(self, stage: Any, folder: Path) -> dict[str, Path]:
        wanted = "scratch" in inspect.signature(stage.run).parameters
        return {"scratch": folder.with_name(f"{folder.name}.partial")} if wanted else {}

    def _compute(self, stage: Any, inputs: tuple[Input, ...], folder: Path, key: str) -> Artifact:
        scratch = self._scratch(stage, folder)
        for made in scratch.values():
            with storing(made):
                made.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        artifact: Artifact = stage.run(*inputs, **scratch)
        artifact = replace(artifact, key=key, seconds=time.perf_counter() - start)
        with storing(folder):
            _write(folder, artifact, needed(i.key for i in inputs))
        for made in scratch.values():
            shutil.rmtree(made, ignore_errors=True)
        return replace(artifact, tensors=TensorFile(folder / "tensors.safetensors"))

    def has(self, stage: Any, *inputs: Input) -> bool:
        """Whether `run` would find its artifact here (its files are not read)."""
        key = _key(stage, inputs)
        return (self.root / type(stage).__name__ / key / "done.json").is_file()

    def _load(
        self, folder: Path, key: str, say: Callable[[str], None] = lambda message: None
    ) -> Artifact | None:
        try:
            text = (folder / "done.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            digests, seconds = _said(text)
            for file, digest in digests.items():
                if checksum(folder / file) != digest:
                    raise ValueError(file)
            record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            tensors = TensorFile(folder / "tensors.safetensors")
        except (OSError, ValueError) as err:  # gone, taken away just now, or another content
            say(f"stored result {folder} is damaged ({err}): computing it again")
            return None
        return Artifact(tensors, record, key, cached=True, seconds=seconds)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the lock of one artifact; says so when it has to wait."""
        with storing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(f"{folder.name}.lock"))
            try:
                lock.acquire(timeout=0)
                waited = False
            except Timeout:
                waited = True
        if waited and not self.patient:
            raise LockedError(folder.parent.name)
        if waited:
            self.say(f"another run is computing {folder.parent.name}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _key(stage: Any, inputs: Iterable[Input]) -> str:
    inputs = list(inputs)
    values = [i.value for i in inputs if isinstance(i, Keyed)]
    tasks = [type(value) for value in values if isinstance(value, ImageTask)]
    return fingerprint.key(stage, (i.key for i in inputs), tasks)


def needed(keys: Iterable[str]) -> list[str]:
    """Keys of the artifacts that inputs with these keys are made of."""
    return sorted({key for text in keys for key in re.findall(r"\b[0-9a-f]{32}\b", text)})


def _mark_used(folder: Path) -> None:
    """Set the time of last use, that of done.json, if there is one."""
    with suppress(OSError):  # of another user, or read-only: then nobody here can remove it either
        os.utime(folder / "done.json")


def _said(text: bytes) -> tuple[dict[str, str], float]:
    """Checksums and seconds in a done.json; older ones have no checksum of their own.

    Raises:
        ValueError: it was not written like this.
    """
    try:
        done = json.loads(text)
        own = done.pop("own", None)
        if not set(done) <= {"sha256", "seconds", "inputs"} or own not in (None, _own(done)):
            raise ValueError
        return {f: str(done["sha256"][f]) for f in FILES}, float(done["seconds"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("done.json") from None


def _own(done: Mapping[str, Any]) -> str:
    """Checksum of what done.json says."""
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, artifact: Artifact, inputs: list[str]) -> None:
    """All of the artifact or nothing: `done.json` appears last.

    Files that another process may be reading are replaced one by one and never cut short. What was
    quick to compute need not survive a power cut: the checksums tell what it has lost.
    """
    draft = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in artifact.tensors.items()}
    try:
        save_file(tensors, draft / "tensors.safetensors")
        (draft / "record.json").write_text(json.dumps(artifact.record), encoding="utf-8")
        digests = {f: checksum(draft / f) for f in FILES}
        done = {"sha256": digests, "seconds": artifact.seconds, "inputs": inputs}
        (draft / "done.json").write_text(json.dumps({**done, "own": _own(done)}))
        folder.mkdir(exist_ok=True)
        lasting = artifact.seconds > WORTH
        for name in (*FILES, "done.json"):
            if lasting:
                write_through(draft / name)
            os.replace(draft / name, folder / name)
        if lasting:
            write_through(folder)
            write_through(folder.parent)
    except BaseException:
        if not (folder / "done.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
