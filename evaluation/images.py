"""Images of any task: one calibration choice, one evaluation set, never an image in both.

A task (classification, detection, segmentation) says how an image becomes an input, what is kept of
a network's outputs, and which figures come out of that. No stage of the pipeline knows more.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Self

import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from evaluation.augmentation import WithCopies
from evaluation.fidelity import Distance, Drop
from evaluation.samples import Progress, Samples, choose, spread

Batch = tuple[Tensor, Tensor]
Batches = DataLoader[Batch]
Outputs = Mapping[str, Tensor]
View = Callable[[Any, Any, int], tuple[Tensor, Any]]
"""(image, its label, its number among the samples) -> (network input, what `outputs` needs)."""


class Decoded(Dataset[Any]):
    """Samples as a network takes them, decoded when asked for."""

    def __init__(self, samples: Samples, view: View) -> None:
        self.samples = samples
        self.view = view

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        samples = self.samples
        image = samples.decode(samples.blob(samples.ids[index]))
        return self.view(image, samples.labels[index], index)


class Numbered(Dataset[tuple[Tensor, int]]):
    """Images with their numbers instead of their labels."""

    def __init__(self, images: Decoded) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index][0], index


class ImageData(LightningDataModule, ABC):
    """Where images come from (final subclasses) and what is asked of a network (one class a task).

    Attributes:
        root: what to evaluate on; null where the class needs no files.
        calibration_root: what to calibrate on; null: what the class documents for `root`.
        batch_size: images per evaluation batch.
        workers: loader processes, at most one per core is started; 0: none.
        skip_bad: drop unreadable images (they are recorded) instead of raising.
        images: evaluate on at most so many images, evenly spaced; null: on all.
        classes: number of classes.
        metric: name of the main metric.
        kind: what the samples are, for people.
        skipped: {id: reason} of the images that `check` dropped.
    """

    kind = "images"
    metric: str
    classes: int
    calibration: Samples
    evaluation: Samples

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1")
        if workers < 0:
            raise ValueError(f"data.workers={workers} must be at least 0 (0: no extra process)")
        if images is not None and images < 1:
            raise ValueError(f"data.images={images} must be at least 1, or null for all images")
        self.root, self.calibration_root = root, calibration_root
        self.batch_size, self.workers = batch_size, workers
        self.skip_bad, self.images = skip_bad, images
        self.skipped: dict[str, str] = {}

    @abstractmethod
    def pools(self) -> tuple[Samples, Samples]:
        """(calibration pool, evaluation pool); they may overlap or be the same images."""

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

    def prepare(
        self,
        data_config: Mapping[str, Any],
        calibration_images: int,
        seed: int,
        calibration_batch_size: int,
        copies: int = 0,
    ) -> None:
        """Index the files, choose the calibration images, keep them out of the evaluation.

        Args:
            data_config: the model's timm data config (input_size, interpolation, mean, std, ...),
                or that of a text model (tokenizer, max_length, pad).
            calibration_images: how many to choose, without replacement.
            seed: decides which ones; fewer images with the same seed are a prefix of more.
            calibration_batch_size: images per calibration batch; moves no choice.
            copies: altered copies of every calibration image, see evaluation/augmentation.py.

        Raises:
            ValueError: no images, too few, or labels that cannot be right; a text model for
                images, or the other way round.
        """
        takes = "sentences" if "tokenizer" in data_config else "images"
        if takes != self.kind:
            raise ValueError(
                f"the network takes {takes}, but the data set holds {self.kind}: choose another "
                "model= or another data="
            )
        if calibration_batch_size < 1:
            raise ValueError(f"calibrate.batch_size={calibration_batch_size} must be at least 1")
        pool, evaluation = self.pools()
        for samples, use in ((pool, "calibration"), (evaluation, "evaluation")):
            if not len(samples):
                raise ValueError(f"no {use} {self.kind}: data.root={self.root} holds none")
            self.check_labels(samples, use)
        self.calibration = choose(pool, calibration_images, seed)
        self.evaluation = spread(evaluation.without(self.calibration), self.images)
        if not len(self.evaluation):
            raise ValueError(
                f"all {len(evaluation)} evaluation images are calibration images too, nothing is "
                "left to evaluate on: set data.calibration_root to other images, or choose fewer "
                f"than calibrate.images={calibration_images}"
            )
        self.skipped = {}
        self._calibration_batch_size = calibration_batch_size
        self._copies = copies
        self._data_config = dict(data_config)
        self._view = self.view(data_config)

    def check(self, report: Progress | None = None) -> None:
        """Decode every chosen and every evaluation image once.

        Args:
            report: called with (images done, images in all) after each image.

        Raises:
            ValueError: some are unreadable and `skip_bad` is off, or none is readable.
        """
        first, total = len(self.calibration), len(self.calibration) + len(self.evaluation)
        calibration_bad = self.calibration.bad(_shifted(report, 0, total))
        evaluation_bad = self.evaluation.bad(_shifted(report, first, total))
        bad = [*calibration_bad.items(), *evaluation_bad.items()]
        if bad and not self.skip_bad:
            named = "".join(f"\n  {name}: {reason}" for name, reason in bad[:5])
            more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise ValueError(
                f"{len(bad)} of {total} {self.kind} cannot be read:{named}{more}"
                "\nRepair them, or leave them out with data.skip_bad=true."
            )
        self.calibration = _readable(self.calibration, calibration_bad, "calibration")
        self.evaluation = _readable(self.evaluation, evaluation_bad, "evaluation")
        self.skipped |= dict(bad)

    def calibrating(self, images: int | None) -> Self:
        """The same, but to evaluate on the first `images` calibration images (None: on all)."""
        other = copy(self)
        other.evaluation = self.calibration.take(range(len(self.calibration))[:images])
        return other

    def hold_out(self, count: int) -> Self:
        """Take the first `count` images out of the calibration; gives the same with only those.

        Raises:
            ValueError: none is left to calibrate on.
        """
        total = len(self.calibration)
        if count >= total:
            raise ValueError(
                f"objective.images={count} leaves none of {total} calibration {self.kind} to "
                "calibrate on: set calibrate.images higher or objective.images lower"
            )
        other = copy(self)
        other.calibration = self.calibration.take(range(count))
        self.calibration = self.calibration.take(range(count, total))
        return other

    @property
    def calibration_key(self) -> str:
        """sha256 of the chosen images, their transform and the number of their copies."""
        key = self._key(self.calibration)
        return f"{key}+{self._copies}" if self._copies else key

    @property
    def evaluation_key(self) -> str:
        """sha256 of the evaluation images and their transform."""
        return self._key(self.evaluation)

    def calibration_loader(self, start: int = 0, first: int | None = None) -> Batches:
        """Chosen images from number `start` on: (x [b, 3, h, w] float32, the task's y [b, ...]).

        With `first`, only so many of all, at most.
        """
        rest = self.calibration.take(range(len(self.calibration))[start:first])
        return self._loader(Decoded(rest, self._view), self._calibration_batch_size)

    def fitting_loader(self, start: int = 0) -> Batches:
        """What weights and statistics are fitted to: the chosen images, then their copies."""
        images = WithCopies(Decoded(self.calibration, self._view), self._copies, start)
        return self._loader(images, self._calibration_batch_size)

    def calibration_batches(self, batches: Sequence[Sequence[int]]) -> DataLoader[Any]:
        """Chosen images by number, batch by batch: (x [b, 3, h, w] float32, their numbers [b])."""
        return DataLoader(
            Numbered(Decoded(self.calibration, self._view)),
            batch_sampler=[list(batch) for batch in batches],
            num_workers=min(self.workers, _cores()),
            pin_memory=torch.cuda.is_available(),
        )

    def predict_dataloader(self) -> Batches:
        return self.calibration_loader()

    def test_dataloader(self) -> Batches:
        return self._loader(Decoded(self.evaluation, self._view), self.batch_size)

    def _loader(self, images: Dataset[Any], batch_size: int) -> Batches:
        return DataLoader(
            images,
            batch_size=batch_size,
            num_workers=min(self.workers, _cores()),
            pin_memory=torch.cuda.is_available(),
        )

    def _key(self, samples: Samples) -> str:
        config = json.dumps(self._data_config, sort_keys=True, default=str)
        return hashlib.sha256(f"{samples.key} {config}".encode()).hexdigest()


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


def _shifted(report: Progress | None, offset: int, total: int) -> Progress | None:
    return report and (lambda done, _: report(offset + done, total))


def _readable(samples: Samples, bad: Mapping[str, str], use: str) -> Samples:
    kept = samples.take(i for i, name in enumerate(samples.ids) if name not in bad)
    if not len(kept):
        raise ValueError(f"none of the {len(samples)} {use} images can be read")
    return kept


def _cores() -> int:
    """Cores this process may use: more loader processes than that only wait."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
