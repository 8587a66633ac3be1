"""Image data of any task, with disjoint calibration and evaluation images."""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self

from evaluation import content_index, image_cache
from evaluation.augmentation import WithCopies
from evaluation.datasets import Batches, DecodedDataset, IndexedDataset, loader
from evaluation.samples import Progress, Samples, spread
from evaluation.split import split
from evaluation.task import ImageTask

# Settings that only choose images, which are in a key by their content, or how they are loaded.
CONTENT = ("root", "calibration_root", "images", "skip_bad", "workers")
EVALUATION = ("batch_size",)  # of evaluation; calibration has its own
STATE = ("calibration", "evaluation", "skipped", "settings")


class ImageData(ImageTask):
    """Base class of data sets: subclasses define the task, and their subclasses the data source.

    Attributes:
        root: evaluation data; null if the class needs no files.
        calibration_root: calibration data; null: as the class documents for `root`.
        batch_size: images per evaluation batch.
        workers: loader processes, limited to one per core; 0: load in this process and cache the
            decoded images, see evaluation/image_cache.py.
        skip_bad: skip and record unreadable images instead of raising.
        images: maximum number of evaluation images, evenly spaced; null: all.
        skipped: {id: reason} for the images that `check` dropped.
    """

    calibration: Samples
    evaluation: Samples
    settings: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        made.settings = _arguments(cls, args, kwargs)
        return made

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
    ) -> None:
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
        """(calibration pool, evaluation pool); they may overlap or be identical."""

    def check_input(self, data_config: Mapping[str, Any]) -> None:
        """Raise a ValueError if a network with this data config cannot process this data."""
        takes = "sentences" if "tokenizer" in data_config else "images"
        if takes != self.kind:
            raise ValueError(
                f"the network takes {takes}, but the data set holds {self.kind}: choose another "
                "model= or another data="
            )

    def prepare(
        self,
        data_config: Mapping[str, Any],
        calibration_images: int | None,
        seed: int,
        calibration_batch_size: int,
        copies: int = 0,
        most: int = 0,
    ) -> None:
        """Index the files and choose calibration images, which are excluded from the evaluation.

        Args:
            data_config: the model's timm data config (input_size, interpolation, mean, std, ...),
                or that of a text model (tokenizer, max_length, pad).
            calibration_images: number to choose, without replacement; None: all available, up to
                `most`, see evaluation/split.py.
            seed: seed for the choice; fewer images with the same seed are a prefix of more.
            calibration_batch_size: images per calibration batch; does not affect the choice.
            copies: augmented copies per calibration image, see evaluation/augmentation.py.
            most: maximum number of calibration images if `calibration_images` is None.

        Raises:
            ValueError: there are no or too few images, labels are invalid, or the model takes
                another kind of input.
        """
        self.check_input(data_config)
        if calibration_batch_size < 1:
            raise ValueError(f"calibrate.batch_size={calibration_batch_size} must be at least 1")
        pool, evaluation = self.pools()
        for samples, use in ((pool, "calibration"), (evaluation, "evaluation")):
            if not len(samples):
                raise ValueError(f"no {use} {self.kind}: data.root={self.root} holds none")
            self.check_labels(samples, use)
        self.calibration, left = self.chosen(pool, evaluation, calibration_images, most, seed)
        self.evaluation = spread(left, self.images)
        if calibration_images is None and not len(self.calibration):
            raise ValueError(
                f"too few {self.kind} in {self.root} ({len(evaluation)}): none can be spared for "
                "calibration. Set data.calibration_root to other data"
            )
        if not len(self.evaluation):
            raise ValueError(
                f"all {len(evaluation)} evaluation {self.kind} are calibration {self.kind} too, "
                "nothing is left to evaluate on: set data.calibration_root to other data, or "
                f"choose fewer than calibrate.images={calibration_images} (null: at most half)"
            )
        self._found = len(pool), len(evaluation)
        self.skipped = {}
        self._calibration_batch_size = calibration_batch_size
        self._copies = copies
        self._data_config = dict(data_config)
        self._view = self.view(data_config)
        image_cache.cache.renew()

    def chosen(
        self, pool: Samples, evaluation: Samples, images: int | None, most: int, seed: int
    ) -> tuple[Samples, Samples]:
        """(calibration, evaluation) images; arguments as in `prepare` and `split`."""
        return split(pool, evaluation, images, most, seed)

    def summary(self) -> str:
        """Numbers of calibration and evaluation images, and of those available."""
        pool, every = self._found
        calibration, evaluation = len(self.calibration), len(self.evaluation)
        rest = f"{evaluation}" if evaluation == every else f"{evaluation} of {every}"
        if calibration + evaluation == pool == every:
            rest = f"the other {evaluation}"
        chosen = f"{calibration} of {pool} {self.kind}"
        return f"{chosen} for calibration (calibrate.images={calibration}), {rest} for evaluation"

    def check(self, report: Progress | None = None) -> None:
        """Decode every calibration and evaluation image once.

        Args:
            report: called with (images done, total) after each image.

        Raises:
            ValueError: images are unreadable and `skip_bad` is off, or none is readable.
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
                "\nRepair them, or skip them with data.skip_bad=true."
            )
        self.calibration = _readable(self.calibration, calibration_bad, "calibration")
        self.evaluation = _readable(self.evaluation, evaluation_bad, "evaluation")
        self.skipped |= dict(bad)

    def calibrating(self, images: int | None) -> Self:
        """A copy that evaluates on the first `images` calibration images (None: all)."""
        other = copy(self)
        other.evaluation = self.calibration.take(range(len(self.calibration))[:images])
        return other

    def hold_out(self, count: int) -> Self:
        """Remove the first `count` calibration images; returns a copy with only those.

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
        """sha256 of the chosen images, the network's input format, the number of copies."""
        key = self._key(self.calibration.key)
        return f"{key}+{self._copies}" if self._copies else key

    @property
    def evaluation_key(self) -> str:
        """sha256 of the evaluation images, what their labels stand for, the input format."""
        contents = list(map(self.label_content, self.evaluation.labels))
        content_index.index.save()
        return self._key(json.dumps([self.evaluation.key, contents], default=repr))

    def described(self, evaluating: bool) -> dict[str, Any]:
        """All but the images' content that results on them depend on: settings, state, code.

        Args:
            evaluating: on the evaluation images, with `outputs`; else on the calibration images.
        """
        without = {*CONTENT, *(() if evaluating else (*EVALUATION, *self.evaluation_settings))}
        settings = {name: value for name, value in self.settings.items() if name not in without}
        state = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name not in {*STATE, *self.settings, *without}
        }
        samples = self.evaluation if evaluating else self.calibration
        return {
            "class": type(self),
            "settings": settings,
            "state": state,
            "view": self._view,
            "decode": samples.decode,
            "blob": type(samples.blob),
            "batch": self.batch_size if evaluating else self._calibration_batch_size,
        }

    def calibration_loader(self, start: int = 0, first: int | None = None) -> Batches:
        """Calibration images `start` to `first` (None: to the end).

        Batches are (x [b, 3, h, w] float32, the task's y [b, ...]).
        """
        rest = self.calibration.take(range(len(self.calibration))[start:first])
        return loader(self._decoded(rest), self.workers, self._calibration_batch_size)

    def fitting_loader(self, start: int = 0) -> Batches:
        """Data to fit weights and statistics to: the calibration images, then their copies."""
        images = WithCopies(self._decoded(self.calibration), self._copies, start)
        return loader(images, self.workers, self._calibration_batch_size)

    def calibration_batches(self, batches: Sequence[Sequence[int]]) -> Batches:
        """Calibration images by index, for given batches: (x [b, 3, h, w] float32, indices [b])."""
        images = IndexedDataset(self._decoded(self.calibration))
        return loader(images, self.workers, batches)

    def predict_dataloader(self) -> Batches:
        return self.calibration_loader()

    def test_dataloader(self) -> Batches:
        return loader(self._decoded(self.evaluation), self.workers, self.batch_size)

    def _decoded(self, samples: Samples) -> DecodedDataset:
        return DecodedDataset(samples, self._view, self.label_content)

    @property
    def _config(self) -> str:
        return json.dumps(self._data_config, sort_keys=True, default=str)

    def _key(self, content: str) -> str:
        return hashlib.sha256(f"{content} {self._config}".encode()).hexdigest()


def _arguments(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a constructor is called with, by parameter; a call that it refuses, or a copy: none."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        bound = signature.bind(None, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


def _shifted(report: Progress | None, offset: int, total: int) -> Progress | None:
    return report and (lambda done, _: report(offset + done, total))


def _readable(samples: Samples, bad: Mapping[str, str], use: str) -> Samples:
    kept = samples.take(i for i, name in enumerate(samples.ids) if name not in bad)
    if not len(kept):
        raise ValueError(f"none of the {len(samples)} {use} images can be read")
    return kept
