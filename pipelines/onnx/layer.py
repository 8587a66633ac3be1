"""One layer as an ONNX model in float32 or int8, as in an exported network.

The int8 model is in QDQ format: uint8 input and output with one scale and zero point each, int8
weights with one scale per output row, int32 bias. onnxruntime fuses it into one integer operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from quant.costs.geometry import LayerGeometry

OPSET, IR = 17, 8  # of 2022, for compatibility with all runtimes
TOP = 127  # largest weight code; -128 is unused, so that the range is symmetric

Array = NDArray[Any]


@dataclass(frozen=True)
class Affine:
    """A uint8 grid: code q stands for scale (q - zero)."""

    scale: float
    zero: int

    @staticmethod
    def covering(values: Array) -> Affine:
        """The grid from the smallest to the largest value, with 0 on it."""
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        scale = (high - low) / 255 or 1.0
        return Affine(scale, round(-low / scale))

    def codes(self, values: Array) -> Array:
        """The nearest codes."""
        codes: Array = np.clip(np.rint(values / self.scale) + self.zero, 0, 255).astype(np.uint8)
        return codes

    def decode(self, codes: Array) -> Array:
        """The values that codes stand for."""
        return (codes.astype(np.float32) - self.zero) * self.scale


def float_model(geometry: LayerGeometry, weight: Array, bias: Array) -> bytes:
    """float32 input "x" [*geometry.input] -> output "y" [*geometry.output]."""
    constants = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    return _model(
        geometry, [_layer(geometry, "x", "weight", "bias", "y")], constants, TensorProto.FLOAT
    )


def int8_model(geometry: LayerGeometry, weight: Array, bias: Array, x: Affine, y: Affine) -> bytes:
    """Codes "x" [*geometry.input] -> codes "y" [*geometry.output]; weights rounded to nearest."""
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
        _scaled("DequantizeLinear", "x", "x", "dequantized"),
        _scaled("DequantizeLinear", "w", "w", "weight", axis=0),
        _scaled("DequantizeLinear", "b", "b", "bias", axis=0),
        _layer(geometry, "dequantized", "weight", "bias", "result"),
        _scaled("QuantizeLinear", "result", "y", "y"),
    ]
    return _model(geometry, nodes, constants, TensorProto.UINT8)


def _scaled(operation: str, x: str, grid: str, result: str, **more: int) -> NodeProto:
    return helper.make_node(
        operation, [x, f"{grid}_scale", f"{grid}_zero"], [result], name=result, **more
    )


def _layer(geometry: LayerGeometry, x: str, weight: str, bias: str, y: str) -> NodeProto:
    inputs = [x, weight, bias]
    if len(geometry.shape) == 2:
        return helper.make_node("Gemm", inputs, [y], name="layer", transB=1)
    return helper.make_node(
        "Conv",
        inputs,
        [y],
        name="layer",
        kernel_shape=geometry.shape[2:],
        strides=geometry.stride,
        pads=geometry.padding,
        dilations=geometry.dilation,
        group=geometry.groups,
    )


def _model(
    geometry: LayerGeometry, nodes: list[NodeProto], constants: dict[str, Array], kind: int
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, geometry.input)],
        [helper.make_tensor_value_info("y", kind, geometry.output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
