"""model.safetensors: all tensors of a quantized network, and what is needed to use it.

docs/file-format.md describes the format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant.activations import Place
from quant.grid import Grid
from quant.layers import Layer
from quant.quantized import QuantizedState, QuantizedWeight
from quant.ranges import TensorGrid

FORMAT = 1
NAME = "model.safetensors"
OLD = "layout"  # metadata of the weights.safetensors that older versions wrote


def save(state: QuantizedState, about: Mapping[str, Any], path: Path) -> None:
    """Write a quantized network to one file.

    Args:
        state: its tensors.
        about: what else to keep, as JSON: preprocessing, class names, task, fingerprints, ...
        path: the file; an existing one is replaced.
    """
    tensors: dict[str, Tensor] = {n: t.detach().cpu().clone() for n, t in state.rest.items()}
    layers = {}
    for name, weight in state.weights.items():
        grid, small = weight.grid, torch.uint8 if weight.grid.bits <= 8 else torch.int32
        tensors[f"{name}:codes"] = weight.packed.cpu().contiguous()
        tensors[f"{name}:scale"] = grid.scale.cpu().contiguous()
        tensors[f"{name}:zero"] = grid.zero.cpu().to(small).contiguous()
        layer = weight.layer
        layers[name] = {
            "bits": grid.bits,
            "shape": list(weight.shape),
            "group_size": grid.group_size,
            "weight": layer.weight,
            "of": list(layer.shape),
            "groups": layer.groups,
        }
    places = {}
    for name, place in state.places.items():
        grid_of_place = state.grids[name]
        tensors[f"{name}:act_scale"] = grid_of_place.scale.detach().cpu().clone()
        tensors[f"{name}:act_zero"] = grid_of_place.zero.detach().cpu().clone()
        places[name] = {"module": place.module, "behind": place.behind, "bits": grid_of_place.bits}
    meta = {"format": FORMAT, "layers": layers, "activations": places, "about": dict(about)}
    # one entry: safetensors would write several in any order
    save_file(tensors, path, metadata={"obliq": json.dumps(meta)})


def load(path: Path) -> tuple[QuantizedState, dict[str, Any]]:
    """The tensors of a quantized network, and what `save` was told about it.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or was not written by this or an older version of obliq.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: give the {NAME} of a run")
    try:
        with safe_open(path, "pt") as file:
            meta = _metadata(file.metadata() or {}, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _state(meta, tensors), meta["about"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as err:
        raise ValueError(f"{path} is damaged ({err}): copy it again, or repeat the run") from err


def _metadata(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if OLD in metadata:
        raise ValueError(
            f"{path} was written by an older obliq and holds the quantized weights only: repeat "
            f"the run for its {NAME}"
        )
    if "obliq" not in metadata:
        raise ValueError(f"{path} holds no network that obliq has quantized: give a run's {NAME}")
    meta: dict[str, Any] = json.loads(metadata["obliq"])
    if meta["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {meta['format']}, this obliq knows {FORMAT}: install a newer one"
        )
    return meta


def _state(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QuantizedState:
    weights, places, grids = {}, {}, {}
    used = set()

    def take(owner: str, part: str) -> Tensor:
        used.add(f"{owner}:{part}")
        return tensors[f"{owner}:{part}"]

    for name, row in meta["layers"].items():
        layer = Layer(name, row["weight"], tuple(row["of"]), row["groups"])
        scale, zero = take(name, "scale"), take(name, "zero").float()
        grid = Grid(scale, zero, row["bits"], row["group_size"])
        weights[name] = QuantizedWeight(layer, take(name, "codes"), grid)
    for name, row in meta["activations"].items():
        places[name] = Place(row["module"], row["behind"])
        grids[name] = TensorGrid(take(name, "act_scale"), take(name, "act_zero"), row["bits"])
    rest = {name: tensor for name, tensor in tensors.items() if name not in used}
    return QuantizedState(weights, rest, places, grids)
