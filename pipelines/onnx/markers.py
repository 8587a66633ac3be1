"""Where quantized tensors are in a network's graph: markers that survive torch's exporter.

The exporter gives tensors names of its own, transposes weights and computes constants ahead. A
marker is an operator of a domain that it does not know, so that it keeps the marker, with its name,
and whatever goes into it.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import NodeProto, helper
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quant.quantized import QuantizedState

DOMAIN = "obliq"
WEIGHT, ACTIVATION = "Weight", "Activation"


class Marker(nn.Module):
    """The identity in the exported graph; elsewhere it has no value."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__()
        self.kind, self.name = kind, name

    def forward(self, x: Tensor) -> Tensor:
        """x, of any shape."""
        symbolic: Any = torch.onnx.ops.symbolic
        marked: Tensor = symbolic(
            f"{DOMAIN}::{self.kind}",
            (x,),
            {"name": self.name},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
        return marked


def marked(model: nn.Module, state: QuantizedState) -> nn.Module:
    """A copy of the float network `model` with the values of `state` and markers, to be exported.

    Markers are at the places of `state`, and between its weights and all that use them. They carry
    the names of `state`.
    """
    copy = state.applied_to(model)
    for name, place in state.places.items():
        copy.get_submodule(place.module).add_module(place.attribute, Marker(ACTIVATION, name))
    modules = list(copy.modules())
    for name, weight in state.weights.items():
        parameter = copy.get_parameter(weight.layer.weight)
        for module in modules:
            for attribute, held in list(module.named_parameters(recurse=False)):
                if held is parameter:
                    parametrize.register_parametrization(module, attribute, Marker(WEIGHT, name))
    return copy


def kind(node: NodeProto) -> str:
    """WEIGHT, ACTIVATION, or "" for a node that is no marker."""
    return str(node.op_type) if node.domain == DOMAIN else ""


def name(node: NodeProto) -> str:
    """What a marker marks."""
    return str(helper.get_node_attr_value(node, "name").decode())
