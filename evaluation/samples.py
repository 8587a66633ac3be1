"""Labelled, still encoded images: selection, comparison by content, detection of bad files."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import content_index
from evaluation.decoding import decode_file as decode_file  # what most readers decode with
from evaluation.image_files import read

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Files:
    """id -> content of a file; the id is the path relative to `root`."""

    root: Path = field(metadata={"key": False})  # where they lie is no part of what they are

    def path(self, name: str) -> Path:
        """Where the file lies."""
        return self.root / name

    def __call__(self, name: str) -> bytes:
        return read(self.path(name))


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled images, not decoded.

    Attributes:
        ids: unique and readable: a relative path, or "test_batch#17".
        labels: one per image, as its task defines it: a class index, boxes, the path of a mask.
        blob: id -> encoded bytes; picklable for loader processes.
        decode: encoded bytes -> RGB image, or a sentence.
        sizes: size of each blob in bytes, known without reading it.
    """

    ids: tuple[str, ...]
    labels: tuple[Any, ...]
    blob: Callable[[str], bytes]
    decode: Callable[[bytes], Any]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def key(self) -> str:
        """sha256 over ids, labels and the images' bytes; independent of the folder's location."""
        content = [self.ids, self.labels, self.digests]
        return hashlib.sha256(json.dumps(content, default=repr).encode()).hexdigest()

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """sha256 of each image's encoded bytes, read once; "" of a file that cannot be read."""
        if isinstance(self.blob, Files):
            return tuple(content_index.digests([self.blob.path(name) for name in self.ids]))
        return tuple(map(self.digest, self.ids))

    def take(self, indices: Iterable[int]) -> "Samples":
        """The images at `indices`, in that order."""
        chosen = list(indices)
        taken = Samples(
            ids=tuple(self.ids[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            blob=self.blob,
            decode=self.decode,
            sizes=tuple(self.sizes[i] for i in chosen),
        )
        if "digests" in vars(self):  # read already
            vars(taken)["digests"] = tuple(self.digests[i] for i in chosen)
        return taken

    def image(self, index: int) -> Any:
        """Image `index`, decoded.

        Raises:
            ValueError: the file is not the one that the key of the results is of.
        """
        blob = self.blob(self.ids[index])
        if hashlib.sha256(blob).hexdigest() != self.digests[index]:
            raise ValueError(
                f"{self.ids[index]} has been changed since this run began: start it again"
            )
        return self.decode(blob)

    def without(self, other: "Samples") -> "Samples":
        """Drop every image whose encoded bytes also occur in `other`, whatever its name.

        Only images whose size occurs on both sides are read. A re-encoded picture is a different
        image.
        """
        shared = set(self.sizes) & set(other.sizes)
        known = {
            other.digest(name)
            for name, size in zip(other.ids, other.sizes, strict=True)
            if size in shared
        }
        return self.take(
            i
            for i, (name, size) in enumerate(zip(self.ids, self.sizes, strict=True))
            if size not in shared or self.digest(name) not in known
        )

    def digest(self, name: str) -> str:
        """sha256 of one image's encoded bytes; of its name, if it cannot be read."""
        if isinstance(self.blob, Files):
            found = content_index.digest(self.blob.path(name))
        else:
            found = hashlib.sha256(self.blob(name)).hexdigest()
        return found or hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()

    def bad(self, progress: Progress | None = None) -> dict[str, str]:
        """Decode every image; return {id: reason} of those that fail, in the order of ids.

        Args:
            progress: called with (images done, total images) after each image.
        """
        reasons: dict[str, str] = {}
        pool = ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1))
        try:
            pending = {pool.submit(self._failure, name): name for name in self.ids}
            for done, future in enumerate(as_completed(pending), start=1):
                if reason := future.result():
                    reasons[pending[future]] = reason
                if progress:
                    progress(done, len(self))
        finally:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would first decode the rest
        return {name: reasons[name] for name in self.ids if name in reasons}

    def _failure(self, name: str) -> str:
        try:
            self.decode(self.blob(name))
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever the damage leads to
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            return re.sub(r"<\S+ object at 0x[0-9a-f]+>", "its bytes", reason)  # reproducible
        return ""


def choose(pool: Samples, count: int, seed: int) -> Samples:
    """Draw `count` images of the pool without replacement, in random order.

    Raises:
        ValueError: the pool has fewer images.
    """
    if not 1 <= count <= len(pool):
        raise ValueError(
            f"calibrate.images={count} must lie in 1..{len(pool)}: "
            f"the calibration pool has {len(pool)} images. Leave it out, or give "
            "calibrate.images=null, to take what there is"
        )
    return pool.take(np.random.default_rng(seed).permutation(len(pool))[:count].tolist())


def spread(samples: Samples, count: int | None) -> Samples:
    """At most `count` images, evenly spaced, as the first ones might all be of one class."""
    if count is None or count >= len(samples):
        return samples
    return samples.take(evenly(count, len(samples)))


def evenly(count: int, total: int) -> list[int]:
    """At most `count` of the indices 0 ... total - 1, evenly spaced."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def part(root: Path, names: tuple[str, ...]) -> Path:
    """The first existing subfolder of `root` among `names`, or `root` itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)
