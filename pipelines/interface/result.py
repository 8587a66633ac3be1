"""The result of a quantization in memory."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from pipelines.exporting import model_file
from pipelines.machine.disk import replacing, with_usual_mode
from quant.quantized import QuantizedState

COLUMNS = ("name", "shape", "bits", "act_bits", "loss", "loss / rtn")


class Layers(Sequence[Mapping[str, Any]]):
    """The quantized layers in order of use, as rows; prints as a table.

    Attributes:
        coverage: percent of all weights ("weights") and of all multiply-adds ("macs") that are
            quantized.
        left: {parameter: reason} of weights that stay in floating point.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        coverage: Mapping[str, float],
        left: Mapping[str, str],
    ) -> None:
        self.rows, self.coverage, self.left = list(rows), dict(coverage), dict(left)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.rows[index]

    def __repr__(self) -> str:
        table = [COLUMNS, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        return "\n".join([*lines, self._summary()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for row in self._cells()
        )
        return f"<table><tr>{head}</tr>{rows}</table><p>{html.escape(self._summary())}</p>"

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for row in self.rows:
            ratio = row["loss"] / row["loss_rtn"] if row["loss_rtn"] else 1.0
            shape = " × ".join(map(str, row["shape"]))
            act = "" if row["act_bits"] is None else str(row["act_bits"])
            yield row["name"], shape, str(row["bits"]), act, f"{row['loss']:.3g}", f"{ratio:.3f}"

    def _summary(self) -> str:
        share = self.coverage
        text = f"{share['weights']:.1f} % of weights, {share['macs']:.1f} % of multiply-adds"
        left = "".join(f"\n  in floating point: {name} ({why})" for name, why in self.left.items())
        return f"quantized: {text}{left}"


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized network.

    Attributes:
        model: computes what was quantized: weights on their grids, and activations too where
            `act_bits` was given. In eval mode, on the device of the network that was given.
        layers: a table: bits, loss, loss under rounding to nearest.
        state: codes, grids and all other tensors.
        about: what `save` writes beside them.
        network: the float network, on the CPU in eval mode.
        example: two of the images.
    """

    model: nn.Module
    layers: Layers
    state: QuantizedState
    about: Mapping[str, Any]
    network: nn.Module
    example: Tensor

    def save(self, path: str | PathLike[str]) -> None:
        """Write one safetensors file; its format is in docs/file-format.md.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(Path(path)) as draft:
            model_file.save(self.state, self.about, draft)
            with_usual_mode(draft)
