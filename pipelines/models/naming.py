"""Which name a network with weights from a file or folder has in messages and reports."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from pipelines.cli.overrides import CONF

SOURCES = (".pt", ".yaml", ".yml")  # names that ultralytics resolves; "/" stands in those of hubs


def named(name: str | None, checkpoint: str | None) -> str:
    """The name of a network: its own, unless that belongs to other weights than these.

    The name of a model in conf/model/ belongs to the file that is its default there, and the name
    of a model on a hub to the weights there. With another checkpoint, the network is named after
    that: a file without its suffix, a folder.

    Args:
        name: as set; None: the checkpoint's.
        checkpoint: file or folder with the weights; None: `name` says where they come from.
    """
    if checkpoint is None:
        return _short(str(name))
    path = Path(checkpoint).expanduser()
    own = path.name if path.is_dir() else path.stem
    if name is None:
        return own
    default = _defaults().get(name)
    if default is not None:
        return _short(name) if default == path.name else own
    elsewhere = "/" in name or name.endswith(SOURCES)
    return own if elsewhere else name


def _short(name: str) -> str:
    """A name without the folder or organisation and the suffix of a file."""
    last = Path(name).name
    return last.removesuffix(Path(last).suffix) if last.endswith(SOURCES) else last


@cache
def _defaults() -> dict[str, str]:
    """File or folder name of the default weights of every model in conf/model/, by its name."""
    found = {}
    for file in sorted((CONF / "model").glob("*.yaml")):
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        name, checkpoint = settings.get("name"), settings.get("checkpoint")
        if name and checkpoint:
            found[str(name)] = Path(checkpoint).name
    return found
