"""A quantized network as data: integer codes, grids, and everything else of its state.

What a file or an exporter needs, and all that is needed to put it into the float network again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from quant.activations import INPUT, OUTPUT, Place, with_quantizers
from quant.grid import Grid
from quant.layers import Layer, from_matrix
from quant.packing import pack, require_length, unpack
from quant.ranges import TensorGrid


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """The weight of a layer.

    Attributes:
        layer: which one.
        packed: codes of the grid, as `quant.packing.pack` gives them: unpacking takes seconds for
            millions of weights.
        grid: what they stand for.
    """

    layer: Layer
    packed: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        require_length(self.packed, self.grid.bits, self.shape)

    @classmethod
    def of(cls, layer: Layer, codes: Tensor, grid: Grid) -> QuantizedWeight:
        """From codes 0 ... 2**bits - 1, [g, r, c]."""
        return cls(layer, pack(codes, grid.bits), grid)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(g, r, c) of the codes."""
        return self.layer.groups, self.layer.rows, self.layer.columns

    @property
    def codes(self) -> Tensor:
        """Whole numbers 0 ... 2**bits - 1, [g, r, c], int64."""
        return unpack(self.packed, self.grid.bits, self.shape)

    def dequantized(self) -> Tensor:
        """The values, float32, in the shape of the network's parameter."""
        return from_matrix(self.grid.decode(self.codes.float()), self.layer.shape)


@dataclass(frozen=True, eq=False)
class QuantizedState:
    """All tensors of a quantized network.

    Attributes:
        weights: quantized weights by layer name.
        rest: all other parameters and buffers, by name in the state dict.
        places: where activations are quantized, by name.
        grids: of these places, by the same name.
    """

    weights: Mapping[str, QuantizedWeight]
    rest: Mapping[str, Tensor]
    places: Mapping[str, Place]
    grids: Mapping[str, TensorGrid]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        weights: Mapping[str, QuantizedWeight],
        places: Mapping[str, Place],
        grids: Mapping[str, TensorGrid],
    ) -> QuantizedState:
        """The state of a network whose weights are on their grids.

        Args:
            model: the network, with or without its quantizers at `places`.
            weights, places, grids: see the class.
        """
        state = model.state_dict(keep_vars=True)
        seen = {id(state[w.layer.weight]) for w in weights.values()}  # tied names count once
        rest: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if id(tensor) not in seen and not {INPUT, OUTPUT} & set(name.split(".")):
                seen.add(id(tensor))
                rest[name] = tensor.detach()
        return cls(weights, rest, places, grids)

    def state_dict(self) -> dict[str, Tensor]:
        """Values of all parameters and buffers by name, weights dequantized; tied names once."""
        values = {w.layer.weight: w.dequantized() for w in self.weights.values()}
        return {**values, **self.rest}

    def applied_to(self, model: nn.Module) -> nn.Module:
        """A copy of the float network `model` that computes what the quantized one does.

        Raises:
            ValueError: `model` is another network: names or shapes differ.
        """
        values = self.state_dict()
        self._require_fit(model, values)
        copy = with_quantizers(model, self.places, self.grids)
        state = copy.state_dict(keep_vars=True)
        for name, value in values.items():
            state[name].data.copy_(value)
        return copy

    def _require_fit(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        state = model.state_dict(keep_vars=True)
        held = {id(state[name]) for name in values if name in state}
        absent = [name for name, tensor in state.items() if id(tensor) not in held]
        unknown = [name for name in values if name not in state]
        modules = dict(model.named_modules())
        unknown += [place.module for place in self.places.values() if place.module not in modules]
        other = [
            f"{name} is {list(values[name].shape)} here and {list(tensor.shape)} there"
            for name, tensor in state.items()
            if name in values and values[name].shape != tensor.shape
        ]
        for what, names in (
            ("is not in the network", unknown),
            ("of the network is missing", absent),
            ("have other shapes", other),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise ValueError(
                    f"the quantized state belongs to another network: {', '.join(names[:3])}{more} "
                    f"{what}"
                )
