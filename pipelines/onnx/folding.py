"""BatchNorm in the step sizes and biases of convolutions with integer weights.

    gamma (s (q - z) x + b - mean) / sigma + beta  =  s' (q - z) x + b',    s' = gamma s / sigma

The codes of a row stay as they are; those of a row with gamma < 0 are reversed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from pipelines.onnx import graph as graphs
from pipelines.onnx import markers
from pipelines.onnx.stored import Stored, tensor

Array = NDArray[Any]
REVERSED = "a row's factor is negative, and its lowest code has no negative"


def fold_norms(graph: GraphProto, weights: dict[str, Stored]) -> dict[str, str]:
    """Fold every BatchNormalization that alone uses a convolution of one marked weight.

    Args:
        graph: with markers; changed in place.
        weights: integers by marked name; changed in place.

    Returns:
        {name of the weight: reason} where a BatchNormalization had to stay behind a convolution.
    """
    left: dict[str, str] = {}
    gone: set[str] = set()
    for norm in graph.node:
        conv = _convolution(graph, norm)
        name = _only_weight(graph, conv) if conv is not None else ""
        if conv is None or name not in weights:
            continue
        factor, shift = _affine(graph, norm)
        scaled = weights[name].scaled(factor)
        if scaled is None:
            left[name] = REVERSED
            continue
        weights[name] = scaled
        if len(conv.input) == 3:
            shift = shift + factor * _value(graph, conv.input[2])
        bias = f"{name}.folded_bias"
        graph.initializer.append(tensor(bias, shift, TensorProto.FLOAT))
        conv.input[:] = [*conv.input[:2], bias]
        gone.add(norm.output[0])
        conv.output[0] = norm.output[0]
    kept = [n for n in graph.node if n.op_type != "BatchNormalization" or n.output[0] not in gone]
    graph.ClearField("node")
    graph.node.extend(kept)
    return left


def _convolution(graph: GraphProto, norm: NodeProto) -> NodeProto | None:
    """The convolution whose output goes into this BatchNormalization only."""
    if norm.op_type != "BatchNormalization":
        return None
    value = norm.input[0]
    conv = graphs.makers(graph).get(value)
    used = len(graphs.users(graph)[value]) + (value in graphs.results(graph))
    known = graphs.constants(graph)
    constant = all(name in known for name in norm.input[1:])
    return conv if conv and conv.op_type == "Conv" and used == 1 and constant else None


def _only_weight(graph: GraphProto, conv: NodeProto) -> str:
    """Name of the marked weight that this convolution uses and nothing else does, or ""."""
    makers, users = graphs.makers(graph), graphs.users(graph)
    marker = makers.get(conv.input[1])
    if marker is None or markers.kind(marker) != markers.WEIGHT:
        return ""
    name = markers.name(marker)
    every = [n for n in graph.node if markers.kind(n) and markers.name(n) == name]
    outputs = [n.output[0] for n in every if markers.kind(n) == markers.WEIGHT]
    bias = len(conv.input) < 3 or conv.input[2] in graphs.constants(graph)
    return name if bias and sum(len(users.get(value, [])) for value in outputs) == 1 else ""


def _affine(graph: GraphProto, norm: NodeProto) -> tuple[Array, Array]:
    """(factor, shift) of a BatchNormalization: y = factor x + shift, float64."""
    gamma, beta, mean, var = (_value(graph, name) for name in norm.input[1:5])
    factor = gamma / np.sqrt(var + helper.get_node_attr_value(norm, "epsilon"))
    return factor, beta - factor * mean


def _value(graph: GraphProto, name: str) -> Array:
    value: Array = numpy_helper.to_array(graphs.constants(graph)[name]).astype(np.float64)
    return value
