"""The work of a network outside of its quantized layers: what stays in floating point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from quant.costs.workload import Workload
from quant.layers import Layer


@dataclass(frozen=True)
class Operation(Workload):
    """A matrix product, a convolution or an attention, with weights or without.

    Attributes:
        multiply_adds: per image.
        parameters: number of weights that it reads.
    """

    multiply_adds: int = 0
    parameters: int = 0

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.parameters

    @property
    def macs(self) -> int:
        """Multiply-adds per image."""
        return self.multiply_adds


@dataclass(frozen=True)
class Remainder:
    """What a network does and holds outside of its quantized layers.

    Attributes:
        operations: all other operations with multiply-adds, in order.
        stored: all other parameters and floating-point buffers as one workload; ties once.
        matrices: number of weights among those, in parameters with two or more dimensions.
    """

    operations: Sequence[Operation]
    stored: Operation
    matrices: int


def remainder(network: nn.Module, example: Tensor, layers: Mapping[str, Layer]) -> Remainder:
    """Run `network` on the first image and record all but `layers`.

    Sums, activation functions and resizing are not counted, as between layers. The formulas are
    those of `torch.utils.flop_counter`.

    Args:
        network: the network in eval mode; not changed.
        example: images [b, ...], at least one.
        layers: the quantized layers, from `quant.layers.find`.
    """
    weights = [network.get_parameter(layer.weight) for layer in layers.values()]
    found = _Operations(network, weights)
    with torch.no_grad(), found:
        network(example[:1])
    quantized = {_memory(weight) for weight in weights}
    others = {
        _memory(t): t
        for t in [*network.parameters(), *network.buffers()]
        if t.is_floating_point() and _memory(t) not in quantized
    }
    count = sum(t.numel() for t in others.values())
    matrices = sum(
        t.numel() for t in others.values() if isinstance(t, nn.Parameter) and t.dim() >= 2
    )
    return Remainder(
        found.operations, Operation("rest", (), 1, 0, 0, 0, parameters=count), matrices
    )


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, network: nn.Module, quantized: list[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.quantized = {_memory(weight) for weight in quantized}
        self.constant = {_memory(t) for t in [*network.parameters(), *network.buffers()]}
        self.operations: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # attention and the like may consist of others
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        tensors = list(_tensors([*args, *kwargs.values()]))
        held = [t for t in tensors if _memory(t) in self.constant]
        if not self.quantized & {_memory(t) for t in held}:
            self.operations.append(
                Operation(
                    func._overloadpacket.__name__,
                    shape=(),
                    groups=1,
                    positions=0,
                    inputs=sum(t.numel() for t in tensors) - sum(t.numel() for t in held),
                    outputs=sum(prod(t.shape) for t in _tensors([result])),
                    multiply_adds=formula(*args, **kwargs, out_val=result) // 2,
                    parameters=sum(t.numel() for t in held),
                )
            )
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
