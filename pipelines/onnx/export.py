"""Export a quantized network to an ONNX file with integer weights, in QDQ format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from pipelines.onnx import graph as graphs
from pipelines.onnx import opsets
from pipelines.onnx.activations import insert_activations
from pipelines.onnx.biases import insert_biases
from pipelines.onnx.clips import drop_clips
from pipelines.onnx.dequantize import drop_markers, insert_weights
from pipelines.onnx.folding import fold_norms
from pipelines.onnx.markers import marked
from pipelines.onnx.stored import NotStorableError, Stored, stored
from quant.quantized import QuantizedState

BATCH: Mapping[int, str] = {0: "batch"}
UNUSED = "the exported graph does not use it"


@dataclass(frozen=True)
class Exported:
    """What a file holds.

    Attributes:
        path: of the file.
        bytes: its size.
        opset: of ONNX's operators.
        weights: {layer: integer type} of quantized weights.
        float_weights: {layer: reason} for quantized weights whose values are floats in the file.
        norms: {layer: reason} where a BatchNorm was to be folded and could not be.
        activations: number of grids of activations in the file.
        inputs, outputs: names.
    """

    path: Path
    bytes: int
    opset: int
    weights: Mapping[str, str]
    float_weights: Mapping[str, str]
    norms: Mapping[str, str]
    activations: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export(
    model: nn.Module,
    state: QuantizedState,
    example: Tensor,
    path: Path,
    *,
    opset: int | None = None,
    dynamic: Mapping[int, str] = BATCH,
    fold: bool = False,
) -> Exported:
    """Write the network that `state.applied_to(model)` computes.

    Weights are integers followed by DequantizeLinear. Activations go through QuantizeLinear and
    DequantizeLinear. The same arguments result in the same file.

    Args:
        model: the float network in eval mode; its input is one tensor.
        state: the quantized one.
        example: an input; its size is that of the file's, but for `dynamic` dimensions.
        path: where to write.
        opset: of the file; None: the lowest one, from 21, that has integers as small as the codes.
        fold: prepare for integer operators: fold BatchNorms into convolutions, whose codes stay or
            are reversed by row, remove clips that the quantizers repeat, and round the biases of
            linear layers to int32.
        dynamic: {dimension of the input: name} of dimensions of any size.

    Raises:
        ValueError: torch or onnxruntime does not know the opset, or the opset has no integers of
            the activations' bits.
    """
    opset = opsets.chosen(opset, state)
    file = _traced(marked(model, state), example, opset, dynamic)
    weights, reasons = _stored(state, opset)
    norms = {}
    if fold:
        norms = fold_norms(file.graph, weights)
        drop_clips(file.graph, state.grids)
        insert_biases(file.graph, weights, state.grids)
    insert_weights(
        file.graph, weights, {name: state.weights[name].layer.weight for name in weights}
    )
    used = insert_activations(file.graph, state.grids, opset)
    drop_markers(file.graph)
    graphs.tidy(file, opset)
    path.write_bytes(file.SerializeToString(deterministic=True))
    types = _integer_types(file, state)
    floats = {name: reasons.get(name, UNUSED) for name in state.weights if name not in types}
    return Exported(
        path,
        path.stat().st_size,
        opset,
        types,
        floats,
        norms,
        len(used),
        tuple(value.name for value in file.graph.input),
        tuple(value.name for value in file.graph.output),
    )


def _traced(
    model: nn.Module, example: Tensor, opset: int, dynamic: Mapping[int, str]
) -> ModelProto:
    """The graph of a network with markers, by torch's exporter, with an input "input"."""
    if 0 in dynamic:  # a dimension of 1 would be taken for a constant
        example = example[:2] if len(example) > 1 else example.repeat(2, *[1] * (example.dim() - 1))
    sizes = {axis: torch.export.Dim(name) for axis, name in dynamic.items()}
    program: Any = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=(sizes,) if sizes else None,
        verbose=False,
    )
    file: ModelProto = program.model_proto
    graph = file.graph
    names = [value.name for value in graph.output]
    outputs = ["output"] if len(names) == 1 else [f"output_{i}" for i in range(len(names))]
    graphs.rename(graph, {graph.input[0].name: "input", **dict(zip(names, outputs, strict=True))})
    return file


def _stored(state: QuantizedState, opset: int) -> tuple[dict[str, Stored], dict[str, str]]:
    """Integers of the weights by name, and reasons why some have none."""
    weights, reasons = {}, {}
    for name, weight in state.weights.items():
        try:
            weights[name] = stored(weight, opset)
        except NotStorableError as reason:
            reasons[name] = str(reason)
    return weights, reasons


def _integer_types(file: ModelProto, state: QuantizedState) -> dict[str, str]:
    """Types of the weights that are integers in the file, by layer."""
    constants = graphs.constants(file.graph)
    names = {name: weight.layer.weight for name, weight in state.weights.items()}
    kinds = {n: constants[w].data_type for n, w in names.items() if w in constants}
    types = {n: str(TensorProto.DataType.Name(kind)).lower() for n, kind in kinds.items()}
    return {name: kind for name, kind in types.items() if "int" in kind}
