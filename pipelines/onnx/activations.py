"""Quantized activations in a graph: pairs of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from pipelines.onnx import graph as graphs
from pipelines.onnx import markers, opsets
from pipelines.onnx.stored import tensor
from quant.ranges import TensorGrid

# {bits: (type, first opset)}
TYPES = {
    4: (TensorProto.UINT4, opsets.BLOCKS),
    8: (TensorProto.UINT8, opsets.FIRST),
    16: (TensorProto.UINT16, opsets.BLOCKS),
}


def insert_activations(graph: GraphProto, grids: Mapping[str, TensorGrid], opset: int) -> list[str]:
    """Quantize where the markers of activations are, in place.

    Codes have the smallest type that holds them. Where it holds more, values are clipped first.

    Returns:
        Names of the grids that the graph uses.

    Raises:
        ValueError: the opset has no type for the codes.
    """
    used: dict[str, int] = {}

    def replacement(node: NodeProto) -> list[NodeProto] | None:
        if markers.kind(node) != markers.ACTIVATION:
            return None
        name = markers.name(node)
        if name not in used:
            _add_constants(graph, name, grids[name], opset)
        used[name] = used.get(name, 0) + 1
        return _pair(node, name, grids[name], opset)

    graphs.replace_nodes(graph, replacement)
    return list(used)


def _pair(node: NodeProto, name: str, grid: TensorGrid, opset: int) -> list[NodeProto]:
    """Operators from the input of a marker to its output."""
    x, result = node.input[0], node.output[0]
    scale, codes = [f"{name}_scale", f"{name}_zero"], f"{result}_codes"
    pair = [
        graphs.node("QuantizeLinear", [x, *scale], codes),
        graphs.node("DequantizeLinear", [codes, *scale], result),
    ]
    if _width(grid.bits, opset) == grid.bits:
        return pair
    pair[0].input[0] = f"{result}_clipped"
    return [graphs.node("Clip", [x, f"{name}_low", f"{name}_high"], pair[0].input[0]), *pair]


def _add_constants(graph: GraphProto, name: str, grid: TensorGrid, opset: int) -> None:
    scale, zero = np.float32(float(grid.scale)), float(grid.zero)
    width = _width(grid.bits, opset)
    if zero != round(zero) or not 0 <= zero < 2**width:
        raise ValueError(f"activation {name}: zero point {zero} is no code of {grid.bits} bits")
    values = {"_scale": (scale, TensorProto.FLOAT), "_zero": (zero, TYPES[width][0])}
    if width != grid.bits:
        low, high = grid.range
        values |= {
            "_low": (scale * np.float32(low), TensorProto.FLOAT),
            "_high": (scale * np.float32(high), TensorProto.FLOAT),
        }
    graph.initializer.extend(
        tensor(f"{name}{key}", np.asarray(value), kind) for key, (value, kind) in values.items()
    )


def _width(bits: int, opset: int) -> int:
    """Bits of the smallest type."""
    for width, (_, first) in TYPES.items():
        if bits <= width and opset >= first:
            return width
    raise ValueError(
        f"opset {opset} has no integers of {bits} bits for activations: use opset {opsets.BLOCKS}"
    )
