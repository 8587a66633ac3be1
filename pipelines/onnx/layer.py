"""One layer as an ONNX model, in float32 and in int8, as an exported network would hold it.

The int8 model is in QDQ form: uint8 input and output with one scale and zero point each, int8
weights with a scale a row, an int32 bias. onnxruntime fuses it into one integer operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from quant.costs.geometry import LayerGeometry

OPSET, IR = 17, 8  # of 2022: what every runtime reads
TOP = 127  # largest code of a weight; -128 is left out, so that 0 is in the middle

Array = NDArray[Any]


@dataclass(frozen=True)
class Affine:
    """uint8 codes q of the numbers scale (q - zero)."""

    scale: float
    zero: int

    @staticmethod
    def covering(numbers: Array) -> Affine:
        """From the least to the greatest number, with 0 on the grid."""
        low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
        scale = (high - low) / 255 or 1.0
        return Affine(scale, round(-low / scale))

    def codes(self, numbers: Array) -> Array:
        """The nearest codes."""
        codes: Array = np.clip(np.rint(numbers / self.scale) + self.zero, 0, 255).astype(np.uint8)
        return codes

    def numbers(self, codes: Array) -> Array:
        """What codes stand for."""
        return (codes.astype(np.float32) - self.zero) * self.scale


def float_model(use: LayerGeometry, weight: Array, bias: Array) -> bytes:
    """float32 input "x" of `use.input` to output "y" of `use.output`."""
    constants = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    return _model(use, [_layer(use, "x", "weight", "bias", "y")], constants, TensorProto.FLOAT)


def int8_model(use: LayerGeometry, weight: Array, bias: Array, x: Affine, y: Affine) -> bytes:
    """Codes "x" of `use.input` to codes "y" of `use.output`; rounds the weight to nearest."""
    rows = np.abs(weight.reshape(len(weight), -1)).max(1)
    scale = np.where(rows > 0, rows / TOP, 1.0).astype(np.float32)
    codes = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    bias_scale = (scale * np.float32(x.scale)).astype(np.float32)
    constants: dict[str, Array] = {
        "w": codes.astype(np.int8),
        "w_scale": scale,
        "w_zero": np.zeros(len(weight), np.int8),
        "b": np.rint(bias / bias_scale).astype(np.int32),
        "b_scale": bias_scale,
        "b_zero": np.zeros(len(weight), np.int32),
        **{f"{n}_scale": np.asarray(a.scale, np.float32) for n, a in (("x", x), ("y", y))},
        **{f"{n}_zero": np.asarray(a.zero, np.uint8) for n, a in (("x", x), ("y", y))},
    }
    nodes = [
        _scaled("DequantizeLinear", "x", "x", "numbers"),
        _scaled("DequantizeLinear", "w", "w", "weight", axis=0),
        _scaled("DequantizeLinear", "b", "b", "bias", axis=0),
        _layer(use, "numbers", "weight", "bias", "result"),
        _scaled("QuantizeLinear", "result", "y", "y"),
    ]
    return _model(use, nodes, constants, TensorProto.UINT8)


def _scaled(operation: str, given: str, grid: str, result: str, **more: int) -> NodeProto:
    return helper.make_node(
        operation, [given, f"{grid}_scale", f"{grid}_zero"], [result], name=result, **more
    )


def _layer(use: LayerGeometry, x: str, weight: str, bias: str, y: str) -> NodeProto:
    inputs = [x, weight, bias]
    if len(use.shape) == 2:
        return helper.make_node("Gemm", inputs, [y], name="layer", transB=1)
    return helper.make_node(
        "Conv",
        inputs,
        [y],
        name="layer",
        kernel_shape=use.shape[2:],
        strides=use.stride,
        pads=use.padding,
        dilations=use.dilation,
        group=use.groups,
    )


def _model(
    use: LayerGeometry, nodes: list[NodeProto], constants: dict[str, Array], kind: int
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, use.input)],
        [helper.make_tensor_value_info("y", kind, use.output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
