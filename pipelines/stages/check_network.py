"""Stage: run the float network on a few images, before hours are spent on what cannot work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.calls import Call, Calls
from quant.layers import find

SOME = 8  # images that show whether a layer runs more than once


@dataclass(frozen=True)
class CheckNetwork:
    """A network that was found good is not run again.

    Attributes:
        classes: of the data set.
        once: what comes next looks at one output of every layer: no layer may run twice on a batch.
    """

    classes: int
    once: bool

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Record: names of the layers; bytes of the Hessians to come.

        Raises:
            ValueError: the network fails on the images, does not give what the task needs, or has a
                layer that runs more often than `once` allows.
        """
        images = data.value
        example, _ = next(iter(images.calibration_loader()))
        try:
            with torch.inference_mode():
                images.check_network(network.module, network.name, example[:1])
        except RuntimeError as err:
            raise ValueError(
                f"model {network.name} does not take images of {list(example.shape[1:])}: {err}"
            ) from err
        layers, _ = find(network.module, example[:1])
        if self.once:
            layers_run_once(network, images)
        bytes_needed = sum(4 * x.groups * x.columns**2 for x in layers.values())
        return Artifact({}, {"layers": list(layers), "hessian_bytes": bytes_needed})


def layers_run_once(network: Network, data: ImageData) -> None:
    """Run some images as one batch.

    Raises:
        ValueError: a layer runs more than once on it.
    """
    count = min(SOME, len(data.calibration))
    example, _ = next(iter(data.calibration_batches([range(count)])))
    layers, _ = find(network.module, example)
    weights = {name: network.module.get_parameter(x.weight) for name, x in layers.items()}
    runs: Counter[str] = Counter()

    def receive(name: str, operation: str, call: Call | None) -> None:
        runs[name] += 1

    with torch.inference_mode(), Calls(weights, receive):
        network.module(example)
    name, most = runs.most_common(1)[0]
    if most > 1:
        raise ValueError(
            f"layer {name} of model {network.name} runs {most} times on {count} {data.kind} (once "
            "for each of their lengths, or because layers share it), but method=eptq and "
            "grid.search=hmse need one output of a layer for the whole batch. Take "
            "method=row_parallel, gptq, obq or rtn with grid.search=mse"
        )
