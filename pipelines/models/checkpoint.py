"""Networks with weights from a checkpoint file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.models.naming import named
from pipelines.models.network import Network, validated
from pipelines.models.state_dict import load_into, read


@dataclass(frozen=True)
class CheckpointModel:
    """A network defined here (or anywhere importable), with weights from a local file.

    Attributes:
        name: name in messages and reports; null, or a name that belongs to other weights: the
            file's (see `naming`).
        build: () -> module whose state dict has the file's keys.
        checkpoint: safetensors or torch file.
        data_config: preprocessing of the input, see `Network`.
    """

    name: str | None
    build: Callable[[], nn.Module]
    checkpoint: str | None
    data_config: dict[str, Any]

    def check(self) -> None:
        """Raise if the file is missing or data_config is invalid; reads no weights."""
        validated(self.data_config, str(self.name))
        existing(self.checkpoint)

    def load(self, store: object) -> Network:
        """Build the network and load the file's weights; `store` is unused."""
        path = existing(self.checkpoint)
        with torch.random.fork_rng(devices=[]):  # the random initial weights are replaced
            module = self.build()
        load_into(module, read(path), str(path))
        return Network.of(module, named(self.name, self.checkpoint), self.data_config, self.build)


def require_data_folder(path: Path, kind: str) -> None:
    """Check that OBLIQ_DATA is set if the default `path` depends on it.

    Args:
        path: path of a checkpoint that does not exist.
        kind: what model.checkpoint takes, "FILE" or "FOLDER".

    Raises:
        FileNotFoundError: the path is relative to OBLIQ_DATA, and that variable is not set.
    """
    if path.parts[:1] == ("OBLIQ_DATA",):  # the fallback of conf/model/ if the variable is unset
        raise FileNotFoundError(
            f"{Path(*path.parts[1:])} is expected in the folder $OBLIQ_DATA, but that environment "
            "variable is not set. Set it (export OBLIQ_DATA=FOLDER), or set "
            f"model.checkpoint={kind}"
        )


def existing(checkpoint: str | None) -> Path:
    """The path of an existing checkpoint file.

    Raises:
        ValueError: `checkpoint` is None.
        FileNotFoundError: the file does not exist, or is a folder; the closest names are listed.
    """
    if checkpoint is None:
        raise ValueError("this model needs weights from a file: set model.checkpoint=FILE")
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    require_data_folder(path, "FILE")
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist, nor does its folder {folder}. Correct "
            "model.checkpoint="
        )
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    near = difflib.get_close_matches(path.name, files, n=5, cutoff=0.4) or files[:5]
    raise FileNotFoundError(
        f"checkpoint {path} {'is a folder' if path.is_dir() else 'does not exist'}. Files in "
        f"{folder}: "
        f"{', '.join(near) or 'none'}{', ...' if len(files) > len(near) else ''}. "
        "Correct model.checkpoint="
    )
