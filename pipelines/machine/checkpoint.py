"""Where an unfinished stage left off: one file whose name carries its checksum.

A file that was cut off or damaged counts as absent, so that its stage starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.machine.disk import checksum, storing, write_through


@dataclass(frozen=True)
class Checkpoint:
    """The last saved state in `folder`, which exists and holds nothing else of this name.

    Attributes:
        folder: the scratch folder of the stage.
        name: tells the checkpoints of one folder apart.
        ending: of the file.
    """

    folder: Path
    name: str
    ending: str = "safetensors"

    @property
    def draft(self) -> Path:
        """What is written before it counts."""
        return self.folder / f"{self.name}.new"

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace what was saved before, all or nothing.

        Raises:
            OSError: the disk is full or cannot be written; what was saved before stays.
        """
        with storing(self.folder):
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, self.draft)
            self.keep()

    def keep(self) -> None:
        """Let the draft count from now on; what it replaces goes when it is on the disk."""
        old = self._files()
        new = self.folder / f"{self.name}-{checksum(self.draft)}.{self.ending}"
        write_through(self.draft)
        os.replace(self.draft, new)
        write_through(self.folder)
        for file in old:
            if file != new:
                file.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The last one that is whole, or None."""
        for file in self._files():
            if checksum(file) == file.stem.rpartition("-")[2]:
                return file
        return None

    def load(self) -> dict[str, Tensor] | None:
        """The newest state that is whole, or None."""
        file = self.newest()
        return None if file is None else load_file(file)

    def _files(self) -> list[Path]:
        """Newest first; more than one only if a save was cut off after its rename."""
        found = self.folder.glob(f"{self.name}-*.{self.ending}")
        return sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)
