"""Blocks of a network: the smallest modules with two or more layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from quant.layers import Layer


def blocks_of(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, str]:
    """{layer: name of its block}, without the layers that are in no block.

    A block is a module with two or more layers, none of whose submodules has two (a residual block,
    say). Module lists and dicts do not count, as they are never called.
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
    """Detach the positional tensor arguments of the named modules, in place."""
    for name in dict.fromkeys(modules):
        model.get_submodule(name).register_forward_pre_hook(_detached, prepend=True)


def _detached(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.detach() if isinstance(x, Tensor) else x for x in args)


def _inside(name: str, module: str) -> bool:
    return name.startswith(f"{module}.")
