"""Clips that the quantizers behind them repeat, and that keep layers from running as integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, numpy_helper

from pipelines.onnx import graph as graphs
from pipelines.onnx import markers
from quant.ranges import TensorGrid


def drop_clips(graph: GraphProto, grids: Mapping[str, TensorGrid]) -> None:
    """Remove the Clips (ReLU6) that change no code of the marked activations behind them, in place.

    The codes of both ends are then the first and the last one, to which quantizers clip themselves.
    """
    users, results = graphs.users(graph), graphs.results(graph)
    renamed = {}
    for node in graph.node:
        if node.op_type != "Clip" or node.output[0] in results:
            continue
        ends = _ends(graph, node)
        marks = users.get(node.output[0], [])
        quantized = all(markers.kind(mark) == markers.ACTIVATION for mark in marks)
        if ends and quantized and all(_covers(ends, grids[markers.name(mark)]) for mark in marks):
            renamed[node.output[0]] = node.input[0]
    graphs.replace_nodes(graph, lambda node: [] if node.output[0] in renamed else None)
    graphs.rename(graph, renamed)


def _ends(graph: GraphProto, clip: NodeProto) -> tuple[float, float] | None:
    """What a Clip clips to; None if it is computed."""
    constants, ends = graphs.constants(graph), [-np.inf, np.inf]
    for i, name in enumerate(clip.input[1:]):
        if name and name not in constants:
            return None
        if name:
            ends[i] = float(numpy_helper.to_array(constants[name]))
    return ends[0], ends[1]


def _covers(ends: tuple[float, float], grid: TensorGrid) -> bool:
    """Whether all values at and beyond both ends have the first and the last code."""
    low, high = (np.rint(np.float32(end) / np.float32(float(grid.scale))) for end in ends)
    return bool(low <= grid.range[0] and high >= grid.range[1])
