"""Labelled, still encoded images: selection, comparison by content, detection of bad files."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.decoding import decode_file as decode_file  # what most readers decode with
from evaluation.image_files import read

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Files:
    """id -> content of a file; the id is the path relative to `root`."""

    root: Path

    def __call__(self, name: str) -> bytes:
        return read(self.root / name)


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled images, not decoded.

    Attributes:
        ids: unique and readable: a relative path, or "test_batch#17".
        labels: one per image, as its task defines it: a class index, boxes, the path of a mask.
        blob: id -> encoded bytes; picklable for loader processes.
        decode: encoded bytes -> RGB image, or a sentence.
        sizes: size of each blob in bytes, known without reading it.
        container: sha256 of the one file that holds all images; "" if each has its own file.
    """

    ids: tuple[str, ...]
    labels: tuple[Any, ...]
    blob: Callable[[str], bytes]
    decode: Callable[[bytes], Any]
    sizes: tuple[int, ...]
    container: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> str:
        """sha256 over ids, labels, sizes and container; independent of the folder's location."""
        content = [self.ids, self.labels, self.sizes, self.container]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def take(self, indices: Iterable[int]) -> "Samples":
        """The images at `indices`, in that order."""
        chosen = list(indices)
        return Samples(
            ids=tuple(self.ids[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            blob=self.blob,
            decode=self.decode,
            sizes=tuple(self.sizes[i] for i in chosen),
            container=self.container,
        )

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

    def digest(self, name: str) -> bytes:
        """sha256 of one image's encoded bytes; of its name, if it cannot be read."""
        try:
            content = self.blob(name)
        except OSError:
            content = name.encode(errors="surrogateescape")
        return hashlib.sha256(content).digest()

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
