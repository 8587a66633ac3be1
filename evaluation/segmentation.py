"""Semantic segmentation: a class for every pixel, mean intersection over union.

The part of a network's answer that an image takes up is resized (nearest) to the image's own size
before it is compared with the mask, so all networks answer for the same pixels. Closeness to the
float network is measured on the network's own pixels; padding never counts.
"""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from timm.data.transforms import str_to_pil_interp
from torch import Tensor, nn

from evaluation.fidelity import Distance, Drop, logits_distance
from evaluation.images import Batch, ImageData, Outputs, View
from evaluation.jackknife import jackknife
from evaluation.samples import Files, Progress, Samples

IGNORE = 255  # in a mask: this pixel counts for no metric
PADDING = -1  # in a batch of masks: beyond the image
PIECE = 2**14  # pixels whose logits are compared at once

WIDTH, PANEL, GAP, LINE = 1200, 400, 8, 22  # of a picture and its parts, at most; pixels
IGNORE_COLOUR = (224, 224, 192)  # of VOC's masks


@dataclass(frozen=True)
class Geometry:
    """How an image of any size becomes an input of `side` (height, width).

    pad: at its own size, at the top left, with zeros (after the normalisation) below and right;
    a larger image is first shrunk to fit, its shape kept. squash: resized, its shape not kept.
    """

    side: tuple[int, int]
    pad: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data_config: Mapping[str, Any]) -> "Geometry":
        """From a model's data config.

        Raises:
            ValueError: crop_mode or crop_pct would cut off a part of the image.
        """
        mode, share = data_config["crop_mode"], data_config["crop_pct"]
        if mode not in ("pad", "squash") or share != 1:
            raise ValueError(
                f"data_config has crop_mode={mode!r} and crop_pct={share}: in segmentation every "
                "pixel needs an answer, so set crop_mode to pad or squash, and crop_pct to 1.0"
            )
        return cls(
            side=(data_config["input_size"][1], data_config["input_size"][2]),
            pad=mode == "pad",
            interpolation=data_config["interpolation"],
            mean=tuple(data_config["mean"]),
            std=tuple(data_config["std"]),
        )

    def area(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that such an image takes up in the input, from the top left."""
        if not self.pad:
            return self.side
        share = min(1.0, self.side[0] / height, self.side[1] / width)
        return max(round(share * height), 1), max(round(share * width), 1)

    def input(self, image: Image.Image) -> Tensor:
        """[3, *side] float32."""
        height, width = self.area(image.height, image.width)
        if (width, height) != image.size:
            image = image.resize((width, height), str_to_pil_interp(self.interpolation))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (self.mean, self.std))
        return F.pad((x - mean) / std, (0, self.side[1] - width, 0, self.side[0] - height))


@dataclass(frozen=True)
class Masks:
    """(path of a mask below the files' root, (width, height) of its image) -> classes [h, w]."""

    files: Files
    classes: int

    def __call__(self, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read one mask.

        Raises:
            ValueError: of another size or kind, or with values that are no class.
            OSError: no such file, or damaged.
        """
        path = self.files.root / name
        image = Image.open(io.BytesIO(self.files(name)))
        if image.mode not in ("P", "L"):
            raise ValueError(
                f"mask {path} is of mode {image.mode}: a mask holds class indices, so it must be "
                "an 8-bit palette or greyscale PNG. Convert colours to indices first"
            )
        if image.size != size:
            raise ValueError(
                f"mask {path} is {image.width}x{image.height} but its image is "
                f"{size[0]}x{size[1]}: they must be equal. Is it the mask of another image?"
            )
        mask: NDArray[np.uint8] = np.array(image)
        wrong = [int(v) for v in np.unique(mask) if v >= self.classes and v != IGNORE]
        if wrong:
            raise ValueError(
                f"mask {path} has the values {wrong[:5]}: only 0..{self.classes - 1} and {IGNORE} "
                "(ignore) are allowed. Was it saved in colour, or for other classes?"
            )
        return mask


@dataclass(frozen=True)
class Masked:
    """(x [3, *side], mask [*canvas] int64, PADDING beyond the image; [0] without a mask)."""

    geometry: Geometry
    masks: Masks
    canvas: tuple[int, int]

    def __call__(self, image: Image.Image, label: str, index: int) -> tuple[Tensor, Tensor]:
        x = self.geometry.input(image)
        if not label:
            return x, torch.zeros(0, dtype=torch.int64)
        y = torch.full(self.canvas, PADDING)
        y[: image.height, : image.width] = torch.from_numpy(self.masks(label, image.size))
        return x, y


class SegmentationData(ImageData):
    """Labels are paths of masks below `mask_root`, "" for calibration images without one.

    A network gives logits [b, classes, h, w] of the size of its input.

    Attributes:
        names: of the classes.
        palette: RGB of each class, 0..255.
        mask_files: reads the masks; set by `pools`.
        report_classes: classes of the metric `miou_subset`; null: without that metric.
    """

    metric = "miou"
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
                    f"data.report_classes={chosen} must be different numbers in "
                    f"0..{self.classes - 1}, or null for no metric over some classes only"
                )
        self.report_classes = report_classes

    @property
    def masks(self) -> Masks:
        return Masks(self.mask_files, self.classes)

    @property
    def evaluation_key(self) -> str:
        """sha256 of the evaluation images, their masks' content and the transform."""
        digest = hashlib.sha256(super().evaluation_key.encode())
        for label in self.evaluation.labels:
            digest.update(hashlib.sha256(self.mask_files(label)).digest())
        return digest.hexdigest()

    def view(self, data_config: Mapping[str, Any]) -> View:
        """Masks of a batch are padded to the largest height and width of the evaluation set."""
        width = height = 0
        for label in self.evaluation.labels:
            with suppress(OSError):  # a damaged one: `check` decides what becomes of it
                w, h = _size(self.mask_files(label))
                width, height = max(width, w), max(height, h)
        return Masked(Geometry.of(data_config), self.masks, (height, width))

    def check_labels(self, samples: Samples, use: str) -> None:
        if use != "evaluation":
            return
        absent = [
            f"{name} ({label or 'none given'})"
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
        """Decode every image as always, and every mask.

        Raises:
            ValueError: some cannot be used and `skip_bad` is off, or none can.
        """
        super().check(report)
        samples, bad = self.evaluation, dict[str, str]()
        for name, label in zip(samples.ids, samples.labels, strict=True):
            try:
                self.masks(label, _size(samples.blob(name)))
            except (OSError, ValueError, SyntaxError) as error:  # Pillow's: a damaged PNG
                bad[name] = str(error)
        if bad and (not self.skip_bad or len(bad) == len(samples)):
            named = "".join(f"\n  {name}: {why}" for name, why in [*bad.items()][:5])
            more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
            way = "" if self.skip_bad else ", or leave these images out with data.skip_bad=true"
            raise ValueError(
                f"{len(bad)} of {len(samples)} masks cannot be used:{named}{more}"
                f"\nRepair them{way}."
            )
        self.evaluation = samples.take(i for i, x in enumerate(samples.ids) if x not in bad)
        self.skipped |= bad

    def check_network(self, network: nn.Module, name: str, example: Tensor) -> None:
        logits = network(example)
        wanted = [len(example), self.classes, *example.shape[2:]]
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != wanted:
            raise ValueError(
                f"model {name} gives {found} for images {list(example.shape)}, but the data set "
                f"needs logits {wanted}: one for each class and pixel. Choose a segmentation model "
                "trained on these classes that resizes its logits to the input"
            )

    def outputs(
        self, network: nn.Module, reference: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """confusion [b, classes, classes] int64 (rows: truth), distance [b, 6] float64.

        The latter holds the fields of `Distance` and is there where a reference is.

        Raises:
            ValueError: logits are not finite.
        """
        x, masks = batch
        logits = _finite(network(x))
        expected = None if reference is None else _finite(reference(x))
        confusions, distances = [], []
        for i, (mask, h, w) in enumerate(self._areas(masks)):
            answer = _nearest(logits[i, :, :h, :w].argmax(0), mask.shape)
            confusions.append(confusion(mask, answer, self.classes))
            if expected is not None:
                distances.append(_apart(expected[i, :, :h, :w], logits[i, :, :h, :w]))
        kept = {"confusion": torch.stack(confusions)}
        if distances:
            kept["distance"] = torch.tensor([astuple(d) for d in distances], dtype=torch.float64)
        return kept

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """miou: mean over the classes that occur, in truth or answers. pixel_accuracy.

        miou_subset: the same mean over those of `report_classes`; left out if none occurs.

        Raises:
            ValueError: no pixel has a label.
        """
        total = outputs["confusion"].sum(0)
        if not int(total.sum()):
            raise ValueError(f"no pixel has a class: all {len(outputs['confusion'])} masks ignore")
        ratios = iou(total)
        correct = total.diagonal().sum().double() / total.sum()
        found = {"miou": 100 * float(ratios.nanmean()), "pixel_accuracy": 100 * float(correct)}
        if self.report_classes is not None:
            subset = float(ratios[list(self.report_classes)].nanmean())
            if not math.isnan(subset):
                found["miou_subset"] = 100 * subset
        return found

    def drop(self, reference: Outputs, outputs: Outputs) -> Drop:
        """By the jackknife over images that have a labelled pixel."""
        before, after = reference["confusion"], outputs["confusion"]
        counted = before.sum((1, 2)) > 0
        points = [100 * iou(c.sum(0)).nanmean() for c in (before, after)]
        left = [100 * iou(c.sum(0) - c[counted]).nanmean(1) for c in (before, after)]
        return jackknife(float(points[0] - points[1]), (left[0] - left[1]).tolist())

    def fidelity(self, reference: Outputs, outputs: Outputs) -> dict[str, float]:
        return Distance(*outputs["distance"].sum(0).tolist()).figures()

    def distance(self, network: nn.Module, reference: Any, outputs: Any) -> Distance:
        """Over all pixels, padding too: calibration batches do not say what is padding."""
        return _sum([_apart(f, q) for f, q in zip(reference, outputs, strict=True)])

    def details(self, outputs: Outputs) -> dict[str, Any]:
        """iou_per_class: {name: percent, None where the class does not occur}."""
        ratios = (100 * iou(outputs["confusion"].sum(0))).tolist()
        named = zip(self.names, ratios, strict=True)
        return {"iou_per_class": {n: None if math.isnan(r) else r for n, r in named}}

    def picture(self, networks: Mapping[str, nn.Module], index: int) -> Image.Image:
        """Photo, truth, and one panel a network; below, the colours of the classes in it."""
        samples = self.evaluation
        photo = samples.decode(samples.blob(samples.ids[index]))
        truth = self.masks(samples.labels[index], photo.size)
        geometry = Geometry.of(self._data_config)
        h, w = geometry.area(photo.height, photo.width)
        x = geometry.input(photo)[None]
        answers = {"truth": truth}
        for name, network in networks.items():
            with torch.inference_mode():
                logits = network(x.to(next(network.parameters()).device))
            answer = _nearest(logits[0, :, :h, :w].argmax(0), truth.shape)
            answers[name] = answer.cpu().numpy().astype(np.uint8)
        return _panels(photo, answers, self.names, self.palette)

    def _areas(self, masks: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """Each mask without its padding, and height and width of its image in the input."""
        geometry = Geometry.of(self._data_config)
        for mask in masks:
            height, width = (int((line != PADDING).sum()) for line in (mask[:, 0], mask[0]))
            yield mask[:height, :width], *geometry.area(height, width)


def confusion(truth: Tensor, answer: Tensor, classes: int) -> Tensor:
    """[classes, classes] int64: pixels of class row that were answered column; IGNORE left out."""
    known = truth != IGNORE
    pairs = truth[known] * classes + answer[known]
    return pairs.bincount(minlength=classes**2).reshape(classes, classes)


def iou(confusions: Tensor) -> Tensor:
    """[..., c, c] -> [..., c] float64: pixels in both, of those in either; NaN where none is."""
    both = confusions.diagonal(dim1=-2, dim2=-1).double()
    return both / (confusions.sum(-1) + confusions.sum(-2) - both)


def _nearest(answer: Tensor, shape: Sequence[int]) -> Tensor:
    """Class map [h, w] -> [*shape]; each pixel takes the one under its centre."""
    rows, columns = (
        (2 * torch.arange(new, device=answer.device) + 1) * old // (2 * new)
        for old, new in zip(answer.shape, shape, strict=True)
    )
    return answer[rows[:, None], columns]


def _apart(reference: Tensor, quantized: Tensor) -> Distance:
    """Of logits [c, h, w]: h * w decisions and distributions."""
    pieces = (torch.split(logits.flatten(1), PIECE, 1) for logits in (reference, quantized))
    return _sum(
        [logits_distance(f.T.contiguous(), q.T.contiguous()) for f, q in zip(*pieces, strict=True)]
    )


def _sum(distances: Sequence[Distance]) -> Distance:
    return sum(distances[1:], start=distances[0])


def _finite(logits: Tensor) -> Tensor:
    """The logits.

    Raises:
        ValueError: some are not finite: their arg-max would look like an answer.
    """
    broken = int((~logits.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise ValueError(
            f"the network's logits are not finite for {broken} of {len(logits)} images: "
            "look at the weights, or at precision=16 overflowing (use 32 or bf16)"
        )
    return logits


def _size(blob: bytes) -> tuple[int, int]:
    """(width, height), without decoding the pixels."""
    return Image.open(io.BytesIO(blob)).size


def _panels(
    photo: Image.Image,
    answers: Mapping[str, NDArray[np.uint8]],
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """The photo and class maps of its size side by side, captions above, classes below."""
    panels = {"photo": photo} | {k: _blend(photo, a, palette) for k, a in answers.items()}
    width = min((WIDTH - GAP) // len(panels) - GAP, PANEL)
    height = round(photo.height * width / photo.width)
    font = ImageFont.load_default(size=15)
    shown = sorted({int(v) for a in answers.values() for v in np.unique(a)} - {0, IGNORE})
    entries = [(names[c], palette[c]) for c in shown] + [("ignored", IGNORE_COLOUR)]
    places, x, row, whole = [], GAP, 0, len(panels) * (width + GAP) + GAP
    for name, _ in entries:
        need = LINE + round(font.getlength(name)) + 2 * GAP
        if x > GAP and x + need > whole:
            x, row = GAP, row + 1
        places.append((x, 2 * GAP + LINE + height + row * LINE))
        x += need
    canvas = Image.new("RGB", (whole, places[-1][1] + LINE + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (name, panel) in enumerate(panels.items()):
        left = GAP + i * (width + GAP)
        draw.text((left, GAP // 2), name, "black", font)
        canvas.paste(panel.resize((width, height), Image.Resampling.BILINEAR), (left, GAP + LINE))
    for (name, colour), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 3, left + 15, top + 18), colour, "black")
        draw.text((left + LINE, top), name, "black", font)
    return canvas


def _blend(
    photo: Image.Image, answer: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """The photo, tinted where the class is not 0."""
    colours = np.zeros((IGNORE + 1, 3))
    colours[: len(palette)], colours[IGNORE] = palette, IGNORE_COLOUR
    share = np.where(answer == 0, 0.0, 0.6)[..., None]
    mixed = (1 - share) * np.array(photo) + share * colours[answer]
    return Image.fromarray(mixed.round().astype(np.uint8))
