"""Interface of a task: classification, detection, segmentation, text classification.

A task defines the preprocessing, the outputs to collect, and the metrics and fidelity computed from
them. The stages of the pipeline know tasks by this interface only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from torch import Tensor, nn

from evaluation.fidelity import Distance, Drop
from evaluation.samples import Samples

Batch = tuple[Tensor, Tensor]
Outputs = Mapping[str, Tensor]
View = Callable[[Any, Any], tuple[Tensor, Any]]
"""Deterministic preprocessing: (image, label) -> (network input, target for `outputs`).

A view may have a method `load()` that does its slow imports; it is called before the loader's
worker processes are forked.
"""


class ImageTask(ABC):
    """A task; one subclass per task.

    Attributes:
        kind: what the samples are, for messages.
        metric: name of the main metric.
        classes: number of classes.
    """

    kind = "images"
    metric: str
    classes: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that `outputs` depends on."""
        return {}

    @abstractmethod
    def check_labels(self, samples: Samples, use: str) -> None:
        """Raise a ValueError that names the first invalid labels."""

    @abstractmethod
    def view(self, data_config: Mapping[str, Any]) -> View:
        """The preprocessing for a network with this data config; picklable."""

    @abstractmethod
    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        """Raise a ValueError if the network's outputs do not suit this task."""

    @abstractmethod
    def outputs(
        self, network: nn.Module, reference: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """The outputs to collect for one batch: tensors [b, ...], on any device.

        Args:
            network: the network to evaluate.
            reference: the float network if `network` is a quantized one.
            batch: a batch of `test_dataloader`.
        """

    @abstractmethod
    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """The task's metrics in percent, from the collected outputs [n, ...] of all images."""

    @abstractmethod
    def drop(self, reference: Outputs, outputs: Outputs) -> Drop:
        """Drop of the main metric from the float to the quantized network."""

    def fidelity(self, reference: Outputs, outputs: Outputs) -> dict[str, float]:
        """agreement (percent), kl (nats) and sqnr_db with respect to the float network.

        Computed from `outputs["distance"]` [n, 6], the fields of `Distance` for every image.
        """
        return Distance(*outputs["distance"].double().sum(0).tolist()).figures()

    @abstractmethod
    def distance(self, network: nn.Module, reference: Any, outputs: Any) -> Distance:
        """Distance between the raw outputs of one batch and those of the float network."""

    @abstractmethod
    def divergence(self, network: nn.Module, reference: Any, outputs: Any) -> Tensor:
        """The training loss of each image in a batch: [b], differentiable.

        The KL divergence as in `distance`, plus any terms specific to the task.
        """

    def details(self, outputs: Outputs) -> dict[str, Any]:
        """More figures for the report by name, for example per class."""
        return {}

    def picture(self, networks: Mapping[str, nn.Module], index: int) -> Image.Image | None:
        """Evaluation image `index` with the predictions of all networks, side by side."""
        return None


def finite(what: str, values: Tensor) -> Tensor:
    """Return `values` [n, ...] of n images unchanged.

    Raises:
        ValueError: some are not finite. An argmax over them would look like a valid prediction.
    """
    broken = int((~values.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise ValueError(
            f"the network's {what} are not finite for {broken} of {len(values)} images: "
            "check the weights. If machine.precision is 16-mixed, activations may overflow: use "
            "32-true or bf16-mixed"
        )
    return values
