"""Object detection: mean average precision of boxes, as COCO defines it.

A network returns raw maps (a sequence of tensors); its method `decode(maps)` turns them into
[b, 4 + classes, n]: boxes (x, y of the centre, width, height, in input pixels) and a probability
per class. Decoding and non-maximum suppression are not quantized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from evaluation.average_precision import average_precision, map_without_groups
from evaluation.fidelity import Distance, Drop
from evaluation.images import ImageData
from evaluation.jackknife import jackknife
from evaluation.letterbox import Letterbox, to_image
from evaluation.nms import non_max_suppression
from evaluation.samples import Samples
from evaluation.task import Batch, Outputs, View

SURE = 0.25  # minimum probability to count as a decision and to be drawn
TINY = 1e-6  # training clamps probabilities to [TINY, 1 - TINY] to keep gradients finite
GROUPS = 10  # groups of images for the jackknife interval of the drop


class DetectionData(ImageData):
    """Object detection data; the label of an image is a tuple of boxes, see evaluation/boxes.py.

    Attributes:
        confidence: detections below this probability are dropped.
        iou: overlap above which non-maximum suppression drops the less probable of two boxes.
        max_detections: maximum number of detections per image.
        names: class names, once they have been read.
    """

    metric = "map50_95"
    names: Sequence[str] = ()

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        confidence: float,
        iou: float,
        max_detections: int,
    ) -> None:
        super().__init__(root, calibration_root, batch_size, workers, skip_bad, images)
        for name, value in (("confidence", confidence), ("iou", iou)):
            if not 0 < value < 1:
                raise ValueError(f"data.{name}={value} must lie between 0 and 1")
        if max_detections < 1:
            raise ValueError(f"data.max_detections={max_detections} must be at least 1")
        self.confidence, self.iou, self.max_detections = confidence, iou, max_detections
        self._known: dict[Any, dict[str, Any]] = {}

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Number of classes."""
        return len(self.names)

    @property
    def settings(self) -> Mapping[str, Any]:
        names = ("confidence", "iou", "max_detections")
        return {name: getattr(self, name) for name in names}

    def check_input(self, data_config: Mapping[str, Any]) -> None:
        super().check_input(data_config)
        if data_config["crop_mode"] != "letterbox":
            raise ValueError(
                f"the model's data_config.crop_mode={data_config['crop_mode']} is not letterbox: "
                "this data set needs a detector (model=yolov5n, model=yolov5s, model=yolo, ...)"
            )

    def view(self, data_config: Mapping[str, Any]) -> View:
        _, height, width = data_config["input_size"]
        return Letterbox(height, width)

    def check_labels(self, samples: Samples, use: str) -> None:
        """Labels were checked when they were read."""

    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        decode = getattr(network, "decode", None)
        if decode is None:
            raise ValueError(
                f"model {name} is no detector: it has no method `decode`. Choose another model= or "
                "another data="
            )
        shape = decode(network(example)).shape
        if len(shape) != 3 or (self.names and shape[1] != 4 + self.classes):
            raise ValueError(
                f"model {name} outputs {list(shape[1:])} per image, [4 + classes, boxes], but "
                f"the data set has {self.classes} classes. Choose a model trained on this data set"
            )

    def outputs(
        self, network: nn.Module, reference: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """detections [b, k, 6]: x1 y1 x2 y2 in image pixels, probability, class; padded with 0.

        With a reference also distance [b, 6]: the fields of `Distance`.
        """
        images, places = batch
        maps = network(images)
        decoded = network.decode(maps)  # type: ignore[operator]
        kept = {"detections": self.suppress(decoded, places)}
        if reference is not None:
            expected = reference(images)
            wanted = reference.decode(expected)  # type: ignore[operator]
            kept["distance"] = distances(wanted, decoded, expected, maps)
        return kept

    def suppress(self, decoded: Tensor, places: Tensor) -> Tensor:
        """Non-maximum suppression of [b, 4 + classes, n]; boxes are mapped back to the images."""
        found = non_max_suppression(decoded, self.confidence, self.iou, self.max_detections)
        kept = torch.zeros(len(found), self.max_detections, 6)
        for row, boxes, place in zip(kept, found, places.tolist(), strict=True):
            row[: len(boxes)] = boxes.cpu()
            row[: len(boxes), :4] = to_image(boxes[:, :4].cpu(), place)
        return kept

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        found = self._precision(outputs)
        return {"map50_95": found["map50_95"], "map50": found["map50"]}

    def details(self, outputs: Outputs) -> dict[str, Any]:
        by_class = self._precision(outputs)["per_class"]
        named = {self.names[c]: value for c, value in by_class.items() if value is not None}
        return {"AP 50-95 by class": named}

    def _precision(self, outputs: Outputs) -> dict[str, Any]:
        """Average precision, cached by detections, since several methods need it."""
        detections = outputs["detections"]
        truths = tuple(self.evaluation.labels)
        key = hashlib.sha256(detections.numpy().tobytes()).digest(), truths
        if key not in self._known:
            self._known[key] = average_precision(rows(detections), truths, self.classes)
        return self._known[key]

    def drop(self, reference: Outputs, outputs: Outputs) -> Drop:
        """Drop with a 95 % interval by the jackknife over groups of images."""
        whole = self.metrics(reference)["map50_95"] - self.metrics(outputs)["map50_95"]
        truths = self.evaluation.labels
        groups = min(GROUPS, len(truths))
        shown = [any(not box.crowd for box in label) for label in truths]
        if len({i % groups for i, some in enumerate(shown) if some}) < 2:
            return jackknife(whole, [whole])  # too few objects for the jackknife
        parts = [
            map_without_groups(rows(o["detections"]), truths, self.classes, groups)
            for o in (reference, outputs)
        ]
        return jackknife(whole, [a - b for a, b in zip(*parts, strict=True)])

    def divergence(self, network: nn.Module, reference: Any, outputs: Any) -> Tensor:
        """KL as in `distances`, plus box errors relative to box size, weighted by probability."""
        wanted, decoded = (network.decode(maps) for maps in (reference, outputs))  # type: ignore[operator]
        p, q = wanted[:, 4:].float(), decoded[:, 4:].float()
        size = wanted[:, 2:4].mean(1).clamp(min=1)
        apart = (decoded[:, :4] - wanted[:, :4]).abs().mean(1) / size
        sure = p.clamp(TINY, 1 - TINY).amax(1)
        total: Tensor = yes_no_divergence(p, q, TINY) + (sure * apart).sum(1)
        return total

    def distance(self, network: nn.Module, reference: Any, outputs: Any) -> Distance:
        wanted, decoded = (network.decode(maps) for maps in (reference, outputs))  # type: ignore[operator]
        return Distance(*distances(wanted, decoded, reference, outputs).sum(0).tolist())

    def picture(self, networks: Mapping[str, nn.Module], index: int) -> Image.Image | None:
        from evaluation.pictures import side_by_side, with_boxes

        samples = self.evaluation
        image = samples.decode(samples.blob(samples.ids[index]))
        x, place = self._view(image, samples.labels[index])
        panels = {}
        for name, network in networks.items():
            device = next(network.parameters()).device
            decoded = network.decode(network(x[None].to(device)))  # type: ignore[operator]
            (found,) = rows(self.suppress(decoded, place[None]))
            panels[name] = with_boxes(image, found[found[:, 4] >= SURE].tolist(), self.names)
        return side_by_side(panels)


def rows(detections: Tensor) -> list[Tensor]:
    """[n, k, 6] padded with zeros -> a tensor [detections, 6] per image."""
    return [found[found[:, 4] > 0] for found in detections]


def distances(
    wanted: Tensor, decoded: Tensor, expected: Sequence[Tensor], maps: Sequence[Tensor]
) -> Tensor:
    """The fields of `Distance` per image: [b, 6], float64.

    - A decision is a place (cell and anchor) where at least one network has a class with
      probability SURE or more; they agree if both have, for the same class.
    - KL is that of independent Bernoulli variables, one per place and class, summed over an image.
    - Signal and noise refer to the raw maps.
    """
    p, q = wanted[:, 4:].double(), decoded[:, 4:].double()
    (best_p, class_p), (best_q, class_q) = p.max(1), q.max(1)
    sure_p, sure_q = best_p >= SURE, best_q >= SURE
    pairs = [
        (a.double().flatten(1), b.double().flatten(1)) for a, b in zip(expected, maps, strict=True)
    ]
    columns = (
        (sure_p & sure_q & (class_p == class_q)).sum(1),
        (sure_p | sure_q).sum(1),
        yes_no_divergence(p, q, 1e-12),
        torch.ones(len(p)),
        torch.stack([a.square().sum(1) for a, _ in pairs]).sum(0),
        torch.stack([(a - b).square().sum(1) for a, b in pairs]).sum(0),
    )
    return torch.stack([c.to(p.device, torch.float64) for c in columns], dim=1)


def yes_no_divergence(p: Tensor, q: Tensor, tiny: float) -> Tensor:
    """KL of Bernoulli probabilities [b, ...], clamped by `tiny` from 0 and 1, summed: [b]."""
    p, q = p.clamp(tiny, 1 - tiny), q.clamp(tiny, 1 - tiny)
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return kl.flatten(1).sum(1)
