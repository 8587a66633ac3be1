"""Write a quantized network as a file for other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.interface import loading
from pipelines.interface.result import Quantized
from pipelines.machine.disk import replacing, with_usual_mode
from quant.quantized import QuantizedState


@dataclass(frozen=True, eq=False)
class Source:
    """What is exported.

    Attributes:
        model: the float network.
        state: the quantized one.
        example: inputs [b, ...].
        opset: of an ONNX file; None: the lowest one that has the integers.
    """

    model: nn.Module
    state: QuantizedState
    example: Tensor
    opset: int | None


def export(
    source: Quantized | str | PathLike[str],
    path: str | PathLike[str],
    into: nn.Module | None,
    example: Tensor | None,
    opset: int | None,
) -> dict[str, Any]:
    """See `obliq.export`."""
    target = Path(path)
    if target.suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"{target}: the ending tells the format, and must be one of {known}")
    if isinstance(source, Quantized):
        model, state = source.network, source.state
        own: Tensor | None = source.example
    else:
        model, state, about = loading.read(source, into)
        own = None if example is not None else _example(about)
    given = example if example is not None else own
    if given is None:
        raise ValueError(
            "the file does not tell the size of the network's input: give one, example=x"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as draft:
        found = FORMATS[target.suffix](Source(model.eval(), state, given.cpu(), opset), draft)
        with_usual_mode(draft)
    return {"file": str(target), "bytes": target.stat().st_size, **found}


def _example(about: Mapping[str, Any]) -> Tensor | None:
    """Two images of the size that the network was evaluated with."""
    size = (about.get("preprocessing") or {}).get("input_size")
    return (
        None if size is None else torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    )


def _onnx(source: Source, path: Path) -> dict[str, Any]:
    from pipelines.onnx.export import export as to_onnx
    from pipelines.onnx.integer_layers import integer_layers

    fold = all(weight.grid.symmetric for weight in source.state.weights.values())
    written = to_onnx(
        source.model, source.state, source.example, path, opset=source.opset, fold=fold
    )
    layers = integer_layers(path)
    return {
        "opset": written.opset,
        "weights": dict(written.weights),
        "float_weights": dict(written.float_weights),
        "integer_layers": sum(layers.integer.values()),
        "layers": layers.total,
        "inputs": list(written.inputs),
        "outputs": list(written.outputs),
    }


def _program(source: Source, path: Path) -> dict[str, Any]:
    model = source.state.applied_to(source.model).eval()
    example = source.example.repeat(2, *[1] * (source.example.dim() - 1))[:2]
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    with path.open("wb") as file:
        torch.export.save(program, file)
    return {}


def _state_dict(source: Source, path: Path) -> dict[str, Any]:
    quantized = source.state.applied_to(source.model).state_dict()
    names = source.model.state_dict()
    save_file({name: quantized[name].clone() for name in names}, path)
    return {}


FORMATS: Mapping[str, Callable[[Source, Path], dict[str, Any]]] = {
    ".onnx": _onnx,
    ".pt2": _program,
    ".safetensors": _state_dict,
}
