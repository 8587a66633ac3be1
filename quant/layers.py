"""Linear and Conv2d layers as matrices: which weights of a network can be quantized.

Letters: g groups, r output rows per group, c input columns per group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quant.calls import Call, Calls
from quant.trace import Trace


@dataclass(frozen=True)
class Layer:
    """A weight used by `linear` or `conv2d`.

    Attributes:
        name: the weight's name without ".weight".
        weight: the weight's name in the state dict.
        shape: [out, in / groups, ...].
        groups: 1 except for a grouped convolution.
        norm: state-dict name of the running mean of the BatchNorm right after the layer, or "".
    """

    name: str
    weight: str
    shape: tuple[int, ...]
    groups: int
    norm: str = ""

    @property
    def owner(self) -> str:
        """The module that holds the weight."""
        return self.weight.rpartition(".")[0]

    @property
    def rows(self) -> int:
        """Output rows per group."""
        return self.shape[0] // self.groups

    @property
    def columns(self) -> int:
        """Input columns per group."""
        return int(torch.Size(self.shape[1:]).numel())


@dataclass(frozen=True)
class Skipped:
    """A parameter with two or more dimensions that is not quantized, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


def to_matrix(weight: Tensor, groups: int) -> Tensor:
    """Reshape a weight [out, in / g, ...] to W [g, r, c]."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def from_matrix(W: Tensor, shape: Iterable[int]) -> Tensor:
    """Reshape W [g, r, c] to the weight's `shape`: the inverse of `to_matrix`."""
    return W.reshape(tuple(shape))


def find(model: nn.Module, *example: Tensor) -> tuple[dict[str, Layer], list[Skipped]]:
    """Run `model` on an example and list every weight that can be quantized, in order of use.

    Args:
        model: the network in eval mode; not changed.
        example: one small batch of real inputs.

    Returns:
        Layers by name (the weight's name without ".weight"), and every other parameter with two or
        more dimensions, with the reason why it is skipped.
    """
    matrices = {n: p for n, p in model.named_parameters() if p.dim() >= 2}
    layers: dict[str, Layer] = {}
    reasons: dict[str, str] = {}

    def receive(name: str, operation: str, call: Call | None) -> None:
        if call is None:
            reasons[name] = f"used by {operation}"
            return
        layer = Layer(
            name.removesuffix(".weight"), name, tuple(matrices[name].shape), int(call.groups)
        )
        if layers.setdefault(name, layer) != layer:
            reasons[name] = "shared by convolutions with different groups"

    with torch.no_grad(), Calls(matrices, receive), Trace(model) as trace:
        outputs = model(*example)
    norms = trace.following_norms(outputs)
    layers = {n: replace(x, norm=norms.get(n, "")) for n, x in layers.items()}
    skipped = [
        Skipped(name, tuple(p.shape), reasons.get(name, "not used by linear or conv2d"))
        for name, p in matrices.items()
        if name in reasons or name not in layers
    ]
    return {x.name: x for n, x in layers.items() if n not in reasons}, skipped
