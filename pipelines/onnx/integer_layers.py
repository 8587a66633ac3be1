"""Which layers of a file onnxruntime computes with integers on this machine."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import GraphProto, NodeProto

from pipelines.onnx import graph as graphs
from pipelines.onnx.session import ERRORS_ONLY

# {operator: position of its weight}
LAYERS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
FUSED = {"FusedConv": 1, "FusedGemm": 1, "FusedMatMul": 1}
INTEGER = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1,
}

# from a constant to the weight that a layer takes
KEEPING = {"DequantizeLinear", "QuantizeLinear", "Reshape", "Transpose", "Identity"}


@dataclass(frozen=True)
class IntegerLayers:
    """How the layers of a file that have weights are computed.

    Attributes:
        total: their number in the file.
        integer: {operator: number} of those that are integer operators.
        floats: names of the weights of the others.
    """

    total: int
    integer: Mapping[str, int]
    floats: tuple[str, ...]


def integer_layers(path: Path) -> IntegerLayers:
    """Count the integer operators of onnxruntime's optimized graph."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        after = onnx.load(optimized).graph
    integer = Counter(node.op_type for node, _ in _layers(after, INTEGER))
    floats = tuple(weight for _, weight in _layers(after, {**LAYERS, **FUSED}))
    return IntegerLayers(
        len(_layers(onnx.load(path).graph, LAYERS)), dict(sorted(integer.items())), floats
    )


def _layers(graph: GraphProto, positions: Mapping[str, int]) -> list[tuple[NodeProto, str]]:
    """These operators, where the weight is a constant, with its name."""
    makers, constants = graphs.makers(graph), graphs.constants(graph)
    found = []
    for node in graph.node:
        if node.op_type in positions:
            value = node.input[positions[node.op_type]]
            while value in makers and makers[value].op_type in KEEPING:
                value = makers[value].input[0]
            if value in constants:
                found.append((node, value.removesuffix("_dequantized")))
    return found
