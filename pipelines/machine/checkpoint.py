"""Checkpoint of an unfinished stage: a file whose name contains its checksum.

A truncated or damaged file counts as absent, so that its stage starts from scratch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.machine.disk import checksum, fsync, storing, with_usual_mode


@dataclass(frozen=True)
class Checkpoint:
    """The last saved state, in an existing folder without other files of this name.

    Attributes:
        folder: the scratch folder of the stage.
        name: distinguishes the checkpoints of a folder.
        suffix: suffix of the file, without the dot.
    """

    folder: Path
    name: str
    suffix: str = "safetensors"

    @property
    def draft(self) -> Path:
        """The file to write before `commit`."""
        return self.folder / f"{self.name}.new"

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state atomically.

        Raises:
            OSError: the disk is full or cannot be written; the previous state stays.
        """
        with storing(self.folder):
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, self.draft)
            with_usual_mode(self.draft)
            self.commit()

    def commit(self) -> None:
        """Make the draft the saved state; the old one is deleted once the draft is on disk."""
        old = self._files()
        new = self.folder / f"{self.name}-{checksum(self.draft)}.{self.suffix}"
        fsync(self.draft)
        os.replace(self.draft, new)
        fsync(self.folder)
        for file in old:
            if file != new:
                file.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The newest intact file, or None."""
        for file in self._files():
            if checksum(file) == file.stem.rpartition("-")[2]:
                return file
        return None

    def load(self) -> dict[str, Tensor] | None:
        """The newest intact state, or None."""
        file = self.newest()
        return None if file is None else load_file(file)

    def _files(self) -> list[Path]:
        """Newest first; more than one only if a save was interrupted after its rename."""
        files = self.folder.glob(f"{self.name}-*.{self.suffix}")
        return sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)
