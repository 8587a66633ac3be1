"""What a task asks of a network: classification, detection, segmentation, sentences.

It says how an image becomes an input, what is kept of a network's outputs, and which figures come
out of that. No stage of the pipeline knows more.
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
"""(image, its label) -> (network input, what `outputs` needs); always the same for them.

What takes long to import is imported by a method `load`, if it has one: it is called before loader
processes are forked, which would all import it again.
"""


class ImageTask(ABC):
    """One class a task.

    Attributes:
        kind: what the samples are, for people.
        metric: name of the main metric.
        classes: number of classes.
    """

    kind = "images"
    metric: str
    classes: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `outputs` depends on beside the class, the images and the networks."""
        return {}

    @abstractmethod
    def check_labels(self, samples: Samples, use: str) -> None:
        """Raise a ValueError that names the first labels that cannot be right."""

    @abstractmethod
    def view(self, data_config: Mapping[str, Any]) -> View:
        """How a network with this data config sees an image; picklable."""

    @abstractmethod
    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        """Raise a ValueError where the network's outputs are not what this task needs."""

    @abstractmethod
    def outputs(
        self, network: nn.Module, reference: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """What is kept of one batch: tensors [b, ...], on any device.

        Args:
            network: the one that is evaluated.
            reference: the float network, where `network` is a quantized one.
            batch: of `test_dataloader`.
        """

    @abstractmethod
    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """The task's metrics in percent, from the kept outputs [n, ...] of all images."""

    @abstractmethod
    def drop(self, reference: Outputs, outputs: Outputs) -> Drop:
        """Loss of the main metric from the float to the quantized network."""

    def fidelity(self, reference: Outputs, outputs: Outputs) -> dict[str, float]:
        """agreement (percent), kl (nats) and sqnr_db to the float network.

        From `outputs["distance"]` [n, 6], the fields of `Distance` of every image.
        """
        return Distance(*outputs["distance"].double().sum(0).tolist()).figures()

    @abstractmethod
    def distance(self, network: nn.Module, reference: Any, outputs: Any) -> Distance:
        """How far the raw outputs of one batch are from those of the float network."""

    @abstractmethod
    def divergence(self, network: nn.Module, reference: Any, outputs: Any) -> Tensor:
        """What training minimises, for each image of a batch: [b], with gradients.

        What `distance` counts as KL, and what else of the answers the task needs.
        """

    def details(self, outputs: Outputs) -> dict[str, Any]:
        """More figures for the report, by name: one a class, say."""
        return {}

    def picture(self, networks: Mapping[str, nn.Module], index: int) -> Image.Image | None:
        """Evaluation image number `index` with the answers of all networks side by side."""
        return None


def finite(what: str, values: Tensor) -> Tensor:
    """The values [n, ...] of n images.

    Raises:
        ValueError: some are not finite: an arg-max of them would look like an answer.
    """
    broken = int((~values.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise ValueError(
            f"the network's {what} are not finite for {broken} of {len(values)} images: "
            "look at the weights, or at precision=16 overflowing (use 32 or bf16)"
        )
    return values
