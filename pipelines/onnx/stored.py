"""The integers of a quantized weight as they are stored in a file.

    W = scale (codes - zero)

The type is the smallest one that holds the codes: signed with a zero point of 0 where the grid is
centred, else unsigned with the zero points of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipelines.onnx import opsets
from quant.quantized import QuantizedWeight

Array = NDArray[Any]

# {bits: (signed, unsigned, first opset)}
TYPES = {
    2: (TensorProto.INT2, TensorProto.UINT2, opsets.TWO_BITS),
    4: (TensorProto.INT4, TensorProto.UINT4, opsets.BLOCKS),
    8: (TensorProto.INT8, TensorProto.UINT8, opsets.FIRST),
    16: (TensorProto.INT16, TensorProto.UINT16, opsets.BLOCKS),
}


class NotStorableError(Exception):
    """An opset has no integers for a weight; says why."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight's integers.

    Attributes:
        codes: int64, [out, in, ...], or [out, columns] with several step sizes per row.
        scale, zero: one for all [], one per row [out], or one per column block [out, k].
        kind: ONNX's type of codes and zero points.
        bits: of the grid.
        block: columns that share a step size; None: all of them.
        shape: of the weight.
    """

    codes: Array
    scale: Array
    zero: Array
    kind: int
    bits: int
    block: int | None
    shape: tuple[int, ...]

    @property
    def type(self) -> str:
        """Name of the integer type, in lower case."""
        return str(TensorProto.DataType.Name(self.kind)).lower()

    @property
    def signed(self) -> bool:
        """Whether the type has negative numbers."""
        return not self.type.startswith("u")

    def in_blocks(self) -> Stored:
        """The same with one column block per row instead of one step size."""
        if self.block is not None:
            return self
        matrix = self.codes.reshape(len(self.codes), -1)
        scale, zero = (np.broadcast_to(v, len(matrix))[:, None] for v in (self.scale, self.zero))
        return replace(self, codes=matrix, scale=scale, zero=zero, block=matrix.shape[1])

    def scaled(self, factor: Array) -> Stored | None:
        """The weight with its rows multiplied by factor [out], on the same codes.

        Codes of a row with a negative factor are reversed around its zero point. None: there is no
        such code in the type.
        """
        scale, zero = (v if v.ndim else np.full(len(factor), v) for v in (self.scale, self.zero))
        codes, zero, negative = self.codes.copy(), zero.copy(), factor < 0
        mirror = 0 if self.signed else 2**self.bits - 1
        codes[negative], zero[negative] = mirror - codes[negative], mirror - zero[negative]
        if codes.max(initial=0) > _largest(self.kind):
            return None
        dead = factor == 0  # a step size of 0 is none
        codes[dead] = _spread(zero, codes, self.block)[dead]
        size = np.where(dead, 1, np.abs(factor)).reshape(-1, *[1] * (scale.ndim - 1))
        return replace(self, codes=codes, scale=(scale * size).astype(np.float32), zero=zero)


def _spread(zero: Array, codes: Array, block: int | None) -> Array:
    """The zero point of every code."""
    if block is not None:
        return np.repeat(zero, block, 1)[:, : codes.shape[1]]
    spread: Array = np.broadcast_to(zero.reshape(-1, *[1] * (codes.ndim - 1)), codes.shape)
    return spread


def stored(weight: QuantizedWeight, opset: int) -> Stored:
    """The integers of a weight.

    Raises:
        NotStorableError: see there.
    """
    layer, grid = weight.layer, weight.grid
    signed, unsigned, _ = _types(grid.bits, opset)
    zero = _per_row(grid.zero, layer.shape[0])
    if np.any(zero != np.rint(zero)) or zero.min() < 0 or zero.max() > grid.top:
        raise NotStorableError("a zero point is not one of the codes")
    shift = 2 ** (grid.bits - 1) if grid.symmetric else 0
    blocks = zero.ndim == 2
    if blocks and opset < opsets.BLOCKS:
        raise NotStorableError(f"opset {opset} has no step sizes of column blocks")
    codes = weight.codes.cpu().numpy().astype(np.int64) - shift
    return Stored(
        codes.reshape(layer.shape[0], -1) if blocks else codes.reshape(layer.shape),
        _per_row(grid.scale, layer.shape[0]).astype(np.float32),
        zero.astype(np.int64) - shift,
        signed if grid.symmetric else unsigned,
        grid.bits,
        grid.group_size if blocks else None,
        tuple(layer.shape),
    )


def _per_row(values: Any, out: int) -> Array:
    """Step sizes or zero points [g, r or 1, k] as [] for all of one, [out], or [out, k]."""
    array: Array = values.cpu().double().numpy()
    g, r, k = array.shape
    if k == 1 and g == r == 1:
        return array.reshape(())
    array = np.broadcast_to(array, (g, out // g, k)).reshape(out, k)
    return array[:, 0] if k == 1 else array


def _types(bits: int, opset: int) -> tuple[int, int, int]:
    for width, types in TYPES.items():
        if bits <= width and opset >= types[2]:
            return types
    raise NotStorableError(f"opset {opset} has no integers of {bits} bits for weights")


def _largest(kind: int) -> int:
    """The largest number of a type."""
    name = str(TensorProto.DataType.Name(kind))
    bits = int(name.lstrip("UINT"))
    return int(2**bits if name.startswith("U") else 2 ** (bits - 1)) - 1


def tensor(name: str, values: Array, kind: int) -> TensorProto:
    """Whole numbers or floats as a tensor of a file, several to a byte where the type is small."""
    return numpy_helper.from_array(
        np.ascontiguousarray(values.astype(helper.tensor_dtype_to_np_dtype(kind))), name
    )
