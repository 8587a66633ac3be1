"""Which opset a file needs, and which ones the installed onnxruntime knows."""

from __future__ import annotations

from functools import cache

import onnxruntime as ort
from onnx import IR_VERSION, TensorProto, helper

from quant.quantized import QuantizedState

FIRST = 18  # of torch's exporter
BLOCKS = 21  # int4, uint4, int16, uint16; step sizes of column blocks
TWO_BITS = 25  # int2, uint2


def chosen(opset: int | None, state: QuantizedState) -> int:
    """`opset`, or by default the lowest one that has an integer type for every weight.

    Raises:
        ValueError: torch's exporter or onnxruntime does not know it.
    """
    if opset is None:
        few = any(weight.grid.bits <= 2 for weight in state.weights.values())
        return TWO_BITS if few and loads(TWO_BITS) else BLOCKS
    if opset < FIRST:
        raise ValueError(f"opset {opset} is not known to torch's exporter: the first is {FIRST}")
    if not loads(opset):
        raise ValueError(f"opset {opset} is not known to onnxruntime {ort.__version__}")
    return opset


@cache
def loads(opset: int) -> bool:
    """Whether the installed onnxruntime loads a model of this opset."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "identity", value[:1], value[1:]
    )
    try:
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version(opset)
        )
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:  # onnxruntime's own, which share no class
        return False
    return True


def ir_version(opset: int) -> int:
    """The version of the file format that came with an opset."""
    imports = [helper.make_opsetid("", opset)]
    try:
        return int(helper.find_min_ir_version_for(imports))
    except ValueError:
        return int(IR_VERSION)
