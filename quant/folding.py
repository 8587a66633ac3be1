"""BatchNorm folding into the preceding weights, as inference engines do it.

    y = gamma (W x + b - mean) / sigma + beta  =  W' x + b',    sigma = sqrt(var + eps)

Folding only scales rows and shifts biases, so with one step size per row it does not change the
quantization: the codes of W' on the scaled grid are those of W (reversed where gamma is negative).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from quant.layers import Layer
from quant.statistics import BatchNorm


def folded(model: nn.Module, layers: Mapping[str, Layer]) -> nn.Module:
    """A copy of `model` with the BatchNorms that directly follow `layers` folded into them.

    Outputs agree up to rounding (a relative 1e-5 in float32). A BatchNorm is only folded into an
    nn.Linear or nn.Conv2d: no other module is known to add its `bias` to the output.

    Args:
        model: the network in eval mode.
        layers: result of `quant.layers.find`, which finds the BatchNorm after each layer.
    """
    copy = deepcopy(model)
    for layer in layers.values():
        owner = copy.get_submodule(layer.owner)
        name = layer.norm.rpartition(".")[0]
        if not layer.norm or not isinstance(owner, nn.Linear | nn.Conv2d):
            continue
        norm = copy.get_submodule(name)
        assert isinstance(norm, BatchNorm)
        weight, bias = merged(owner.weight.detach(), owner.bias, norm)
        owner.weight, owner.bias = nn.Parameter(weight), nn.Parameter(bias)
        copy.set_submodule(name, _rest(norm))
    return copy


def merged(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(W', b') for W [out, ...] and b, computed in float64; see the formula of this module."""
    mean, var, eps = norm.running_mean, norm.running_var, norm.eps
    assert isinstance(mean, Tensor) and isinstance(var, Tensor) and isinstance(eps, float)
    gamma = norm.weight.detach().double() if isinstance(norm.weight, Tensor) else 1.0
    beta = norm.bias.detach().double() if isinstance(norm.bias, Tensor) else 0.0
    factor = gamma / torch.sqrt(var.double() + eps)
    shift = beta - mean.double() * factor
    if bias is not None:
        shift = shift + bias.detach().double() * factor
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def _rest(norm: nn.Module) -> nn.Module:
    """What a BatchNorm does in addition: timm's variants include dropout and an activation."""
    rest = [getattr(norm, part, None) for part in ("drop", "act")]
    return nn.Sequential(*(part for part in rest if isinstance(part, nn.Module)))
