"""Semantic segmentation: a class for every pixel, mean intersection over union.

The part of the predicted class map that shows the image is resized (nearest) to the image's own
size and compared with the mask, so the metrics of all networks are over the same pixels.
Fidelity on these images is measured at the resolution of the logits, without padding.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evaluation import content_index, doubts
from evaluation.class_names import require_same
from evaluation.fidelity import Distance, Drop, logits_distance, softmax_divergence
from evaluation.images import ImageData
from evaluation.jackknife import jackknife
from evaluation.mask_pictures import panels
from evaluation.masks import IGNORE, PADDING, Geometry, Masked, Masks, size_of
from evaluation.samples import Files, Progress, Samples
from evaluation.task import Batch, Outputs, View, finite

PIECE = 2**14  # pixels compared at once, to bound memory


class SegmentationData(ImageData):
    """Labels are paths of masks relative to `mask_files.root`, "" for images without one.

    A network returns logits [b, classes, h, w] at the resolution of its input. Only calibration
    images may lack a mask.

    Attributes:
        names: class names.
        palette: RGB of each class, 0..255.
        mask_files: reads the masks; set by `pools`.
        report_classes: classes of the metric `miou_subset`; null: no such metric.
    """

    metric = "miou"
    evaluation_settings = ("report_classes",)
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mask_files: Files

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        report_classes: Sequence[int] | None,
    ) -> None:
        super().__init__(root, calibration_root, batch_size, workers, skip_bad, images)
        self.classes = len(self.names)
        if report_classes is not None:
            chosen = list(report_classes)
            if (
                not chosen
                or len({*chosen}) < len(chosen)
                or not {*chosen} <= {*range(self.classes)}
            ):
                raise ValueError(
                    f"data.report_classes={chosen} must be distinct class indices in "
                    f"0..{self.classes - 1}, or null for no miou_subset"
                )
        self.report_classes = report_classes

    @property
    def masks(self) -> Masks:
        return Masks(self.mask_files, self.classes)

    def label_content(self, label: str) -> tuple[str, str]:
        """The name of the mask, and the sha256 of its file."""
        return label, content_index.digest(self.mask_files.path(label)) if label else ""

    def view(self, data_config: Mapping[str, Any]) -> View:
        """Masks are padded to the largest height and width in the evaluation set."""
        width = height = 0
        for label in self.evaluation.labels:
            with suppress(OSError):  # damaged masks are handled by `check`
                w, h = size_of(self.mask_files(label))
                width, height = max(width, w), max(height, h)
        return Masked(Geometry.of(data_config), self.masks, (height, width))

    def check_labels(self, samples: Samples, use: str) -> None:
        if use != "evaluation":
            return
        absent = [
            f"{name} ({label or 'none'})"
            for name, label in zip(samples.ids, samples.labels, strict=True)
            if not label or not (self.mask_files.root / label).is_file()
        ]
        if absent:
            raise ValueError(
                f"{len(absent)} of {len(samples)} evaluation images have no mask below "
                f"{self.mask_files.root}: {', '.join(absent[:5])}"
                f"{' ...' if len(absent) > 5 else ''}. Add the masks or remove the images"
            )

    def check(self, report: Progress | None = None) -> None:
        """Decode every image and every mask once.

        Raises:
            ValueError: some are unusable and `skip_bad` is off, or all are.
        """
        super().check(report)
        samples, bad = self.evaluation, dict[str, str]()
        for name, label in zip(samples.ids, samples.labels, strict=True):
            try:
                self.masks(label, size_of(samples.blob(name)))
            except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: a damaged PNG
                bad[name] = str(error)
        if bad and (not self.skip_bad or len(bad) == len(samples)):
            named = "".join(f"\n  {name}: {why}" for name, why in [*bad.items()][:5])
            more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
            skip = "" if self.skip_bad else ", or skip these images with data.skip_bad=true"
            raise ValueError(
                f"{len(bad)} of {len(samples)} masks cannot be used:{named}{more}"
                f"\nRepair them{skip}."
            )
        self.evaluation = samples.take(i for i, x in enumerate(samples.ids) if x not in bad)
        self.skipped |= bad

    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        logits = network(example)
        expected = [len(example), self.classes, *example.shape[2:]]
        actual = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if actual != expected:
            raise ValueError(
                f"model {name} returns {actual} for images {list(example.shape)}, but the data set "
                f"needs logits {expected}: one per class and pixel. Choose a segmentation model "
                "trained on these classes that resizes its logits to the input size"
            )
        require_same(self.names, network, name)

    def outputs(
        self, network: nn.Module, reference: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """confusion [b, classes, classes] int64 (rows: truth).

        With a reference also distance [b, 6] float64, the fields of `Distance`.

        Raises:
            ValueError: logits are not finite.
        """
        x, masks = batch
        logits = finite("logits", network(x))
        expected = None if reference is None else finite("logits", reference(x))
        confusions, distances = [], []
        for i, (mask, h, w) in enumerate(self._areas(masks)):
            predicted = _nearest(logits[i, :, :h, :w].argmax(0), mask.shape)
            confusions.append(confusion(mask, predicted, self.classes))
            if expected is not None:
                distances.append(_pixel_distance(expected[i, :, :h, :w], logits[i, :, :h, :w]))
        collected = {"confusion": torch.stack(confusions)}
        if distances:
            rows = [astuple(d) for d in distances]
            collected["distance"] = torch.tensor(rows, dtype=torch.float64)
        return collected

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """miou, pixel_accuracy and miou_subset.

        The mean IoU is over the classes that occur in the masks or predictions; miou_subset is over
        those among `report_classes`, and is absent if none of them occurs.

        Raises:
            ValueError: no pixel is labelled.
        """
        total = outputs["confusion"].sum(0)
        if not int(total.sum()):
            raise ValueError(
                f"no pixel is labelled: all {len(outputs['confusion'])} masks are {IGNORE} "
                "(ignore) everywhere. Use images with labels"
            )
        ratios = iou(total)
        correct = total.diagonal().sum().double() / total.sum()
        figures = {"miou": 100 * float(ratios.nanmean()), "pixel_accuracy": 100 * float(correct)}
        if self.report_classes is not None:
            subset = float(ratios[list(self.report_classes)].nanmean())
            if not math.isnan(subset):
                figures["miou_subset"] = 100 * subset
        return figures

    def doubts(self, outputs: Outputs) -> list[str]:
        return doubts.of_confusions(outputs["confusion"])

    def drop(self, reference: Outputs, outputs: Outputs) -> Drop:
        """With a jackknife interval over the images that have a labelled pixel."""
        before, after = reference["confusion"], outputs["confusion"]
        labelled = before.sum((1, 2)) > 0
        whole = [100 * iou(c.sum(0)).nanmean() for c in (before, after)]
        without = [100 * iou(c.sum(0) - c[labelled]).nanmean(1) for c in (before, after)]
        return jackknife(float(whole[0] - whole[1]), (without[0] - without[1]).tolist())

    def divergence(self, network: nn.Module, reference: Any, outputs: Any) -> Tensor:
        """Mean KL divergence over all pixels, including padding."""
        return softmax_divergence(reference.float(), outputs.float()).flatten(1).mean(1)

    def distance(self, network: nn.Module, reference: Any, outputs: Any) -> Distance:
        """Over all pixels, including padding, which is unknown for calibration batches."""
        return _sum([_pixel_distance(f, q) for f, q in zip(reference, outputs, strict=True)])

    def details(self, outputs: Outputs) -> dict[str, Any]:
        """IoU in percent of the classes that occur, by name."""
        ratios = (100 * iou(outputs["confusion"].sum(0))).tolist()
        named = zip(self.names, ratios, strict=True)
        return {"IoU by class": {n: r for n, r in named if not math.isnan(r)}}

    def picture(self, networks: Mapping[str, nn.Module], index: int) -> Image.Image:
        """Photo, ground truth and one panel per network above a legend of the classes."""
        samples = self.evaluation
        photo = samples.decode(samples.blob(samples.ids[index]))
        truth = self.masks(samples.labels[index], photo.size)
        geometry = Geometry.of(self._data_config)
        h, w = geometry.area(photo.height, photo.width)
        x = geometry.input(photo)[None]
        class_maps = {"truth": truth}
        for name, network in networks.items():
            with torch.inference_mode():
                logits = network(x.to(next(network.parameters()).device))
            predicted = _nearest(logits[0, :, :h, :w].argmax(0), truth.shape)
            class_maps[name] = predicted.cpu().numpy().astype(np.uint8)
        return panels(photo, class_maps, self.names, self.palette)

    def _areas(self, masks: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """Each mask without its padding, and its image's height and width within the input."""
        geometry = Geometry.of(self._data_config)
        for mask in masks:
            height, width = (int((line != PADDING).sum()) for line in (mask[:, 0], mask[0]))
            yield mask[:height, :width], *geometry.area(height, width)


def confusion(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """[classes, classes] int64: pixels by true (row), predicted (column) class; no IGNORE."""
    known = truth != IGNORE
    pairs = truth[known] * classes + predicted[known]
    return pairs.bincount(minlength=classes**2).reshape(classes, classes)


def iou(confusions: Tensor) -> Tensor:
    """[..., c, c] -> [..., c] float64: intersection over union; NaN for absent classes."""
    intersection = confusions.diagonal(dim1=-2, dim2=-1).double()
    return intersection / (confusions.sum(-1) + confusions.sum(-2) - intersection)


def _nearest(class_map: Tensor, shape: Sequence[int]) -> Tensor:
    """Class map [h, w] -> [*shape], resized to the nearest pixel centre."""
    rows, columns = (
        (2 * torch.arange(new, device=class_map.device) + 1) * old // (2 * new)
        for old, new in zip(class_map.shape, shape, strict=True)
    )
    return class_map[rows[:, None], columns]


def _pixel_distance(reference: Tensor, quantized: Tensor) -> Distance:
    """Distance between logits [c, h, w]: h * w decisions and distributions."""
    pieces = (torch.split(logits.flatten(1), PIECE, 1) for logits in (reference, quantized))
    return _sum(
        [logits_distance(f.T.contiguous(), q.T.contiguous()) for f, q in zip(*pieces, strict=True)]
    )


def _sum(distances: Sequence[Distance]) -> Distance:
    return sum(distances[1:], start=distances[0])
