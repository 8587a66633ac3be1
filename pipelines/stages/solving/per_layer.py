"""What is found out about each layer on its own, by all processes of a run together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pipelines.machine.machine import Machine
from pipelines.machine.threads import solving
from pipelines.stages.solving.solve import LayerInput, effort

Found = TypeVar("Found")


def for_each_layer(
    layers: Mapping[str, LayerInput], work: Callable[[LayerInput], Found], machine: Machine
) -> dict[str, Found]:
    """work(layer) of each, by name; where there are several processes, each one does its share."""

    def found(given: LayerInput) -> Found:
        try:
            with solving(given.layer):
                return work(given)
        except Exception as err:
            err.add_note(f"in layer {given.layer.name}")
            raise

    names = list(layers)
    mine = machine.ranks.mine([effort(given.layer) for given in layers.values()])
    share = {names[i]: found(layers[names[i]]) for i in mine}
    every = machine.ranks.union(share)
    return {name: every[name] for name in names}
