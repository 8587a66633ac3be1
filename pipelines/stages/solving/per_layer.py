"""Computations on single layers, shared by all processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pipelines.machine.machine import Machine
from pipelines.machine.threads import solving
from pipelines.stages.solving.solve import LayerInput, effort

Result = TypeVar("Result")


def for_each_layer(
    layers: Mapping[str, LayerInput], compute: Callable[[LayerInput], Result], machine: Machine
) -> dict[str, Result]:
    """compute(layer) for every layer, by name; every process computes a share of the layers."""

    def result(layer_input: LayerInput) -> Result:
        try:
            with solving(layer_input.layer):
                return compute(layer_input)
        except Exception as err:
            err.add_note(f"in layer {layer_input.layer.name}")
            raise

    names = list(layers)
    mine = machine.ranks.assigned([effort(x.layer) for x in layers.values()])
    share = {names[i]: result(layers[names[i]]) for i in mine}
    every = machine.ranks.union(share)
    return {name: every[name] for name in names}
