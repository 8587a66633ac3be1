"""Blocks of a network: the smallest modules that hold two or more layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from quant.layers import Layer


def blocks_of(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, str]:
    """{layer: name of its block}; a layer that is in none has a block of its own.

    A module is a block where no module inside it holds two layers (a residual block, say). Lists
    of modules, which are never called, are none.
    """
    owners = {name: layer.owner for name, layer in layers.items()}

    def held(module: str) -> list[str]:
        return [n for n, owner in owners.items() if owner == module or _inside(owner, module)]

    named = dict(model.named_modules())
    several = {
        name: held(name)
        for name, module in named.items()
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict)
    }
    several = {name: found for name, found in several.items() if len(found) > 1}
    smallest = {n: x for n, x in several.items() if not any(_inside(m, n) for m in several)}
    return {layer: name for name, found in smallest.items() for layer in found}


def stop_gradients(model: nn.Module, modules: Iterable[str]) -> None:
    """Let no gradient out of the named modules through what they are called with, in place."""
    for name in dict.fromkeys(modules):
        model.get_submodule(name).register_forward_pre_hook(_detached, prepend=True)


def _detached(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.detach() if isinstance(x, Tensor) else x for x in args)


def _inside(name: str, module: str) -> bool:
    return name.startswith(f"{module}.")
