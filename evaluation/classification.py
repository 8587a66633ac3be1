"""Image classification: one label per image, top-1 and top-5 accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn

from evaluation import doubts
from evaluation.class_names import require_same
from evaluation.fidelity import (
    Distance,
    Drop,
    compare,
    logits_distance,
    paired_drop,
    softmax_divergence,
)
from evaluation.images import ImageData
from evaluation.preprocessing import Preprocessing
from evaluation.samples import Samples
from evaluation.task import Batch, Outputs, View


@dataclass(frozen=True)
class Labelled:
    """(x [3, h, w], label) of an image."""

    transform: Preprocessing

    def __call__(self, image: Image.Image, label: int) -> tuple[Tensor, int]:
        return self.transform(image), label


class ClassificationData(ImageData):
    """Labels are 0 .. classes - 1; a network returns one logit per class.

    Attributes:
        names: of the classes, where the data set knows them.
    """

    metric = "top1"
    names: Sequence[str] = ()

    def view(self, data_config: Mapping[str, Any]) -> View:
        return Labelled(Preprocessing.of(data_config))

    def check_labels(self, samples: Samples, use: str) -> None:
        wrong = [i for i, y in enumerate(samples.labels) if not 0 <= y < self.classes]
        if wrong:
            named = ", ".join(f"{samples.ids[i]} has {samples.labels[i]}" for i in wrong[:5])
            raise ValueError(
                f"{len(wrong)} of {len(samples)} {use} {self.kind} have labels outside "
                f"0..{self.classes - 1}: {named}{' ...' if len(wrong) > 5 else ''}. Labels "
                f"start at 0; for other than {self.classes} classes set data.classes=N"
            )

    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        logits = network(example)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"model {name} is no classifier: it gives a {type(logits).__name__} instead of one "
                "number for each class. Choose another model= or another data="
            )
        if logits.dim() != 2 or (self.classes and logits.shape[1] != self.classes):
            raise ValueError(
                f"model {name} returns {list(logits.shape[1:])} values per image, but the data "
                f"set has {self.classes} classes. Choose a model trained on this data set; for "
                "your own class folders set data.classes"
            )
        require_same(self.names, network, name)

    def outputs(
        self, network: nn.Module, reference: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """logits [b, classes] and labels [b], small enough to keep; the reference is not run."""
        images, labels = batch
        return {"logits": network(images).float(), "labels": labels}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return metrics(outputs["logits"], outputs["labels"])

    def doubts(self, outputs: Outputs) -> list[str]:
        answers = outputs["logits"].argmax(1)
        return doubts.of_answers(answers, outputs["labels"], self.classes, self.kind)

    def drop(self, reference: Outputs, outputs: Outputs) -> Drop:
        return paired_drop(*(correct(o["logits"], o["labels"]) for o in (reference, outputs)))

    def fidelity(self, reference: Outputs, outputs: Outputs) -> dict[str, float]:
        return compare(reference["logits"], outputs["logits"])

    def divergence(self, network: nn.Module, reference: Any, outputs: Any) -> Tensor:
        return softmax_divergence(reference.float(), outputs.float())

    def distance(self, network: nn.Module, reference: Any, outputs: Any) -> Distance:
        return logits_distance(reference, outputs)


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent of images whose label has the largest, or one of the five largest, logits.

    Args:
        logits: [n, classes].
        labels: [n], 0 .. classes - 1.

    Returns:
        top1, and top5 if there are more than five classes.

    Raises:
        ValueError: the shapes do not match, or a label is not a class of the network.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits are {list(logits.shape)} and labels {list(labels.shape)}: "
            "they must be [n, classes] and [n], n > 0"
        )
    classes = logits.shape[1]
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels lie in {int(labels.min())}..{int(labels.max())} but the network has "
            f"{classes} classes: was it trained on this data set?"
        )
    result = {"top1": 100 * correct(logits, labels).double().mean().item()}
    if classes > 5:
        hit = (logits.topk(5).indices == labels[:, None]).any(1)
        result["top5"] = 100 * hit.double().mean().item()
    return result


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """[n] bool: whether the label has the largest logit."""
    return logits.argmax(1) == labels
