"""Changes to the graph of an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from pipelines.onnx import opsets


def users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that take each value, once for each time they take it."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            found.setdefault(value, []).append(node)
    return found


def makers(graph: GraphProto) -> dict[str, NodeProto]:
    """The node that makes each value."""
    return {value: node for node in graph.node for value in node.output}


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def results(graph: GraphProto) -> set[str]:
    """Names of the outputs."""
    return {value.name for value in graph.output}


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names, wherever they are made or taken."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def replace_nodes(
    graph: GraphProto, replacement: Callable[[NodeProto], Iterable[NodeProto] | None]
) -> None:
    """Put other nodes into the places of some; None keeps a node."""
    nodes = []
    for node in graph.node:
        others = replacement(node)
        nodes += [node] if others is None else list(others)
    graph.ClearField("node")
    graph.node.extend(nodes)


def tidy(model: ModelProto, opset: int) -> None:
    """Remove constants that nothing takes, unknown domains, and all traces of where it was made."""
    graph = model.graph
    taken = {*users(graph), *results(graph)}
    kept = [tensor for tensor in graph.initializer if tensor.name in taken]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    for message in (model, graph, *graph.node, *graph.input, *graph.output, *kept):
        message.ClearField("doc_string")
        message.ClearField("metadata_props")
    graph.ClearField("value_info")
    used = {node.domain for node in graph.node} | {""}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)
    model.ir_version = opsets.ir_version(opset)
    graph.name, model.producer_name = "quantized", "obliq"
    model.ClearField("producer_version")


def node(operation: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    """An operator with one output, by whose name it is called."""
    return helper.make_node(operation, inputs, [output], name=output, **attributes)
