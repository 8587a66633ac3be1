"""Integer weights in a graph: constants, and the operators that turn them into numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from pipelines.onnx import graph as graphs
from pipelines.onnx import markers
from pipelines.onnx.stored import Stored, tensor


def insert_weights(
    graph: GraphProto, weights: Mapping[str, Stored], names: Mapping[str, str]
) -> None:
    """Put integers into the places of the markers of these weights, in place.

    A matrix that is only used transposed is stored so: [in, out].

    Args:
        graph: with markers.
        weights: integers by marked name.
        names: of the weights in the state dict, by marked name.
    """
    users, makers = graphs.users(graph), graphs.makers(graph)
    taken: dict[str, list[NodeProto]] = {}
    for node in _marked(graph):
        taken.setdefault(markers.name(node), []).extend(users.get(node.output[0], []))
    misread = {
        name
        for name, nodes in taken.items()
        if name in weights and _misread(weights[name]) and _meet_activations(nodes, users, makers)
    }
    transposed = {name for name, nodes in taken.items() if all(map(_transposes, nodes))} - misread
    first: dict[str, NodeProto] = {}
    renamed: dict[str, str] = {}
    gone = set()
    for node in _marked(graph):
        name, marked = markers.name(node), node.output[0]
        if name not in weights:
            continue
        first.setdefault(name, node)
        renamed[marked] = f"{names[name]}_dequantized"
        if name in transposed:
            for user in users.get(marked, []):
                renamed[user.output[0]] = renamed[marked]
                gone.add(user.output[0])

    def replacement(node: NodeProto) -> list[NodeProto] | None:
        if markers.kind(node) != markers.WEIGHT:
            return [] if node.output[0] in gone else None
        name = markers.name(node)
        if name not in weights:
            return None
        if node.output[0] != first[name].output[0]:
            return []
        weight = weights[name]
        if name in misread and weight.bits <= 2:
            weight = weight.in_blocks()
        return _dequantized(graph, names[name], weight, name in transposed)

    graphs.replace_nodes(graph, replacement)
    graphs.rename(graph, renamed)


def drop_markers(graph: GraphProto) -> None:
    """Remove the remaining markers: what they mark is used as it is."""
    names: dict[str, str] = {}
    for node in graph.node:
        if markers.kind(node):
            names[node.output[0]] = names.get(node.input[0], node.input[0])
    graphs.replace_nodes(graph, lambda node: [] if markers.kind(node) else None)
    graphs.rename(graph, names)


def _marked(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if markers.kind(node) == markers.WEIGHT]


def _transposes(node: NodeProto) -> bool:
    """Whether a node swaps the two dimensions of a matrix."""
    return node.op_type == "Transpose" and list(helper.get_node_attr_value(node, "perm")) == [1, 0]


def _misread(weight: Stored) -> bool:
    """Whether onnxruntime 1.31 makes an invalid integer operator of this weight.

    It does so behind DequantizeLinear with one step size per row (2 bits), or directly before a
    MatMul (2 bits and all blocks of more than 4), where its other input is quantized too.
    """
    return weight.bits <= 2 or (weight.block is not None and weight.bits > 4)


def _meet_activations(
    nodes: list[NodeProto],
    users: Mapping[str, list[NodeProto]],
    makers: Mapping[str, NodeProto],
) -> bool:
    """Whether some of these users of a weight apply it to a marked activation."""
    transposed = [user for node in nodes for user in users.get(node.output[0], [])]
    values = [value for node in (*nodes, *transposed) for value in node.input]
    return any(v in makers and markers.kind(makers[v]) == markers.ACTIVATION for v in values)


def _dequantized(graph: GraphProto, name: str, weight: Stored, transposed: bool) -> list[NodeProto]:
    """The operators from the integers to NAME_dequantized; adds the constants to the graph."""
    values = {"": weight.codes, "_scale": weight.scale, "_zero": weight.zero}
    if transposed:
        values = {key: value.T for key, value in values.items()}
    for key, value in values.items():
        kind = TensorProto.FLOAT if key == "_scale" else weight.kind
        graph.initializer.append(tensor(f"{name}{key}", value, kind))
    attributes = {"axis": int((weight.block is None) == transposed)}
    if weight.block is not None:
        attributes["block_size"] = weight.block
    inputs, result = [f"{name}{key}" for key in values], f"{name}_dequantized"
    if weight.codes.shape == weight.shape:
        return [graphs.node("DequantizeLinear", inputs, result, **attributes)]
    graph.initializer.append(tensor(f"{name}_shape", np.array(weight.shape), TensorProto.INT64))
    return [
        graphs.node("DequantizeLinear", inputs, f"{name}_matrix", **attributes),
        graphs.node("Reshape", [f"{name}_matrix", f"{name}_shape"], result),
    ]
