"""Integer biases, without which onnxruntime computes a Gemm in floating point."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from pipelines.onnx import graph as graphs
from pipelines.onnx import markers
from pipelines.onnx.stored import Stored, tensor
from quant.ranges import TensorGrid

LARGEST = 2**31 - 1


def insert_biases(
    graph: GraphProto, weights: Mapping[str, Stored], grids: Mapping[str, TensorGrid]
) -> None:
    """Round the biases of Gemms of marked activations and 8-bit weights to int32, in place.

    A bias is rounded to whole numbers of steps of the product: a small part of one step of the
    output.
    """
    makers, constants = graphs.makers(graph), graphs.constants(graph)
    before: dict[str, NodeProto] = {}
    for node in graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        marks = [makers.get(value) for value in node.input[:2]]
        if [m and markers.kind(m) for m in marks] != [markers.ACTIVATION, markers.WEIGHT]:
            continue
        place, name = (markers.name(mark) for mark in marks if mark)
        weight, grid = weights.get(name), grids[place]
        if weight is None or weight.block or not weight.type.endswith("int8") or grid.bits > 8:
            continue
        bias = numpy_helper.to_array(constants[node.input[2]]).astype(np.float64)
        step = np.broadcast_to(weight.scale * np.float32(float(grid.scale)), bias.shape)
        codes = np.rint(bias / step)
        if np.abs(codes).max(initial=0) > LARGEST:
            continue
        stem = f"{node.output[0]}_bias"
        graph.initializer.extend([
            tensor(stem, codes, TensorProto.INT32),
            tensor(f"{stem}_scale", step, TensorProto.FLOAT),
        ])  # fmt: skip
        before[node.output[0]] = graphs.node(
            "DequantizeLinear", [stem, f"{stem}_scale"], f"{stem}_dequantized", axis=0
        )
        node.input[2] = f"{stem}_dequantized"
    graphs.replace_nodes(
        graph, lambda node: [before[node.output[0]], node] if node.output[0] in before else None
    )
