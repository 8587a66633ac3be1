"""The quantized network of a file, or of a run."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from pipelines import run
from pipelines.exporting import model_file
from quant.quantized import QuantizedState

OWN = ("pipelines", "quant", "evaluation")  # packages whose classes a record may name


def load(path: str | PathLike[str], into: nn.Module | None) -> nn.Module:
    """See `obliq.load`."""
    model, state, _ = read(path, into)
    try:
        return state.applied_to(model).eval()
    except (ValueError, AttributeError) as err:
        raise ValueError(f"{path}: {err}. Give the float network that was quantized") from err


def read(
    path: str | PathLike[str], into: nn.Module | None
) -> tuple[nn.Module, QuantizedState, dict[str, Any]]:
    """The float network, what it is quantized to, and what the file says beside.

    Args:
        path, into: as in `obliq.load`.
    """
    place = Path(path)
    file = place / model_file.NAME if place.is_dir() else place
    state, about = model_file.load(file)
    return into if into is not None else _network(file), state, about


def _network(file: Path) -> nn.Module:
    """The float network of the run that has written `file`, built as its settings say."""
    record = file.with_name("results.json")
    if not record.is_file():
        raise ValueError(
            f"{file} holds tensors, not the network's code: give the network, "
            f"obliq.load({str(file)!r}, into=model), or the output folder of a run"
        )
    settings = json.loads(record.read_text(encoding="utf-8"))["settings"]["model"]
    foreign = [name for name in _targets(settings) if name.split(".")[0] not in OWN]
    if foreign:
        raise ValueError(
            f"the run's network was built by {foreign[0]}, which is not obliq's: build it yourself "
            f"and give it, obliq.load({str(file.parent)!r}, into=model)"
        )
    built: nn.Module = run.model(settings).module
    return built


def _targets(node: Any) -> list[str]:
    """All values of `_target_` in settings."""
    if isinstance(node, list):
        return [name for item in node for name in _targets(item)]
    if not isinstance(node, dict):
        return []
    own = [str(node["_target_"])] if "_target_" in node else []
    return [*own, *(name for value in node.values() for name in _targets(value))]
