"""Folding BatchNorm into the weights before it, as inference engines do.

    y = gamma (W x + b - mean) / sigma + beta  =  W' x + b',    sigma = sqrt(var + eps)

Only scales rows and moves biases, so with a step size a row it changes no quantization: codes of W'
on the scaled grid are those of W (reversed where gamma is negative).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from quant.layers import Layer
from quant.statistics import BatchNorm


def folded(model: nn.Module, layers: Mapping[str, Layer]) -> nn.Module:
    """A copy of `model` without the BatchNorms that take the output of one of `layers` alone.

    Outputs agree to rounding (1e-5 of their size in float32). A BatchNorm whose layer is no
    nn.Linear or nn.Conv2d (nothing else is known to add its `bias`) stays as it is.

    Args:
        model: in eval mode.
        layers: of `quant.layers.find`, which knows the BatchNorm behind each.
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
    """(W', b') of the module's docstring for W [out, ...], computed in float64."""
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
    """What a BatchNorm does besides: timm's own have an activation inside."""
    rest = [getattr(norm, part, None) for part in ("drop", "act")]
    return nn.Sequential(*(part for part in rest if isinstance(part, nn.Module)))
