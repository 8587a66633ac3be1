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

from pipelines.store import checksum


@dataclass(frozen=True)
class Checkpoint:
    """The last saved state in `folder`, which exists and holds nothing else of this name.

    Attributes:
        folder: the scratch folder of the stage.
        name: tells the checkpoints of one folder apart.
    """

    folder: Path
    name: str

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace what was saved before, all or nothing."""
        draft = self.folder / f"{self.name}.new"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, draft)
        old = self._files()
        new = self.folder / f"{self.name}-{checksum(draft)}.safetensors"
        os.replace(draft, new)
        for file in old:
            if file != new:
                file.unlink(missing_ok=True)

    def load(self) -> dict[str, Tensor] | None:
        """The newest state that is whole, or None."""
        for file in self._files():
            if checksum(file) == file.stem.rpartition("-")[2]:
                return load_file(file)
        return None

    def _files(self) -> list[Path]:
        """Newest first; more than one only if a save was cut off after its rename."""
        found = self.folder.glob(f"{self.name}-*.safetensors")
        return sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)
