"""Stage: run the float network on a few images before the long stages."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.calls import Call, Calls
from quant.layers import find

SAMPLE = 8  # images on which to check that every layer runs once


@dataclass(frozen=True)
class CheckNetwork:
    """Checks that the network suits the task. Stored, so that later runs need no forward pass.

    Attributes:
        classes: number of classes of the data set.
        once: check that every layer runs once in a forward pass, as EPTQ and HMSE grids require.
    """

    classes: int
    once: bool

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Record: the layers, see `calibrate.layers_of`.

        Raises:
            ValueError: the network fails on the images, returns outputs that do not suit the task,
                or with `once` has a layer that runs more than once on a batch.
        """
        images = data.value
        example, _ = next(iter(images.calibration_loader()))
        run_network(network, images, example[:1])
        layers, _ = find(network.module, example[:1])
        if self.once:
            check_layers_run_once(network, images)
        return Artifact({}, {"layers": [asdict(layer) for layer in layers.values()]})


def run_network(network: Network, data: ImageData, example: Tensor) -> None:
    """Run `example` [b, ...] and check the network's outputs.

    Raises:
        ValueError: the network fails, or returns outputs that do not suit the task.
    """
    try:
        with torch.inference_mode():
            data.check_network(network.module, network.name, example)
    except RuntimeError as err:
        raise ValueError(
            f"model {network.name} does not accept images of shape {list(example.shape[1:])}: {err}"
        ) from err


def check_layers_run_once(network: Network, data: ImageData) -> None:
    """Check that every layer runs once in a forward pass.

    Raises:
        ValueError: a layer runs more than once on a batch.
    """
    count = min(SAMPLE, len(data.calibration))
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
            "per sentence length, or because its weight is shared), but method=eptq and "
            "grid.search=hmse need one output of a layer for the whole batch. Use "
            "method=row_parallel, gptq, obq or rtn with grid.search=mse"
        )
