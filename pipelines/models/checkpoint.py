"""Networks whose weights come from a file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.models.network import Network, complete
from pipelines.models.state_dict import fit, read


@dataclass(frozen=True)
class CheckpointModel:
    """A network defined here (or anywhere importable), with weights from a local file.

    Attributes:
        name: for people and reports.
        build: () -> module with the file's key names.
        checkpoint: safetensors or torch file.
        data_config: what the network's input looks like, see `Network`.
    """

    name: str
    build: Callable[[], nn.Module]
    checkpoint: str | None
    data_config: dict[str, Any]

    def check(self) -> None:
        """Raise if the file is not there or data_config is incomplete; reads no weights."""
        complete(self.data_config, self.name)
        existing(self.checkpoint)

    def load(self, store: object) -> Network:
        """The network with the file's weights. `store` is not used: nothing is computed here."""
        path = existing(self.checkpoint)
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
            module = self.build()
        fit(module, read(path), str(path))
        return Network.of(module, self.name, self.data_config)


def require_data_folder(path: Path, kind: str) -> None:
    """`kind` of path is what to give instead: "FILE" or "FOLDER".

    Raises:
        FileNotFoundError: the path is below OBLIQ_DATA, and that variable is not set.
    """
    if path.parts[:1] == ("OBLIQ_DATA",):  # what conf/model puts there when the variable is unset
        raise FileNotFoundError(
            f"{Path(*path.parts[1:])} is looked for in the folder that the environment variable "
            "OBLIQ_DATA names, and it is not set. Set it (export OBLIQ_DATA=FOLDER), or give "
            f"model.checkpoint={kind}"
        )


def existing(checkpoint: str | None) -> Path:
    """The file's path.

    Raises:
        ValueError: none given.
        FileNotFoundError: it is not there, or is a folder; names the likeliest files instead.
    """
    if checkpoint is None:
        raise ValueError("this model needs weights from a file: give model.checkpoint=FILE")
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    require_data_folder(path, "FILE")
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no checkpoint {path}: there is not even a folder {folder}. Correct model.checkpoint="
        )
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    near = difflib.get_close_matches(path.name, files, n=5, cutoff=0.4) or files[:5]
    raise FileNotFoundError(
        f"checkpoint {path} is {'a folder' if path.is_dir() else 'not there'}. Files in {folder}: "
        f"{', '.join(near) or 'none'}{', ...' if len(files) > len(near) else ''}. "
        "Correct model.checkpoint="
    )
