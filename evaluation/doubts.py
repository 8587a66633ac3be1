"""Signs that a float network and its data do not belong together, or that its outputs are random.

A network that guesses, answers the same to every image, or answers differently when it is asked
again has figures that quantization can neither spoil nor keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SURE = 0.01  # probability of a wrong verdict, on either side
USEFUL = 0.25  # of the way from guessing to 100 %: out of reach for a network at chance level
MINIMUM = 20  # images, or objects, from which an answer that never changes says something
REPEATABLE = 1e-6  # energy of the difference of two passes, as a fraction; rounding stays below
FITS = "Do the weights, the order of the classes and the preprocessing belong to these data?"


def at_chance(right: int, total: int, chance: float) -> bool:
    """Whether so many right answers are what guessing gives, and surely not much more.

    True if a one-sided binomial test finds nothing better than guessing, and the upper
    Clopper-Pearson limit is below USEFUL; both at the level SURE. With few images it is False.

    Args:
        chance: probability of a right guess.
    """
    better = _at_least(right, total, chance)
    limit_is_lower = 1 - _at_least(right + 1, total, chance + USEFUL * (1 - chance)) < SURE
    return better > SURE and limit_is_lower


def _at_least(right: int, total: int, chance: float) -> float:
    """Probability of at least so many successes in `total` trials."""
    successes = torch.arange(right, total + 1, dtype=torch.float64)
    trials = torch.distributions.Binomial(total, torch.tensor(chance, dtype=torch.float64))
    logs: Tensor = trials.log_prob(successes)  # type: ignore[no-untyped-call]
    return float(logs.exp().sum())


def of_answers(answers: Tensor, labels: Tensor, classes: int, kind: str) -> list[str]:
    """Doubts about decisions [n] for n images with labels [n].

    Args:
        kind: what is classified, "images" or "sentences".
    """
    total, right = len(labels), int((answers == labels).sum())
    found = []
    if at_chance(right, total, 1 / classes):
        found.append(
            f"the float network is right on {right} of {total} {kind}, no more than guessing among "
            f"{classes} classes gives ({100 / classes:.3g} %). {FITS}"
        )
    often = int(labels.bincount().max()) if total else 0
    if total >= MINIMUM and bool((answers == answers[0]).all()) and often < 0.9 * total:
        found.append(
            f"the float network gives class {int(answers[0])} for all {total} {kind}, whose labels "
            f"differ. {FITS}"
        )
    return found


def of_detections(map50: float, objects: int) -> list[str]:
    """Doubts about a mean average precision (percent, at an IoU of 0.5) on so many objects."""
    if objects < MINIMUM or map50 >= 1:
        return []
    return [
        f"the float network's mAP 50 is {map50:.2f} % on {objects} objects: it finds next to none. "
        f"{FITS}"
    ]


def of_confusions(confusions: Tensor) -> list[str]:
    """Doubts about confusion matrices [n, classes, classes] (rows: truth) of n images.

    Guessing is a class map with the same shares of the classes that shows nothing of its image.
    """
    total = confusions.sum(0).double()
    pixels = total.sum()
    labelled = int((confusions.sum((1, 2)) > 0).sum())
    if labelled < MINIMUM or not pixels:
        return []
    truth, answer = total.sum(1), total.sum(0)
    here = (truth + answer) > 0
    by_chance = truth * answer / pixels
    guess = (by_chance / (truth + answer - by_chance))[here].mean()
    hit = total.diagonal()
    figure = (hit / (truth + answer - hit))[here].mean()
    if figure > guess + 0.02:
        return []
    return [
        f"the float network's mean IoU is {100 * figure:.1f} % on {labelled} images, and a class "
        f"map that shows nothing of them would have {100 * guess:.1f} %. {FITS}"
    ]


def of_passes(record: Mapping[str, Any], kind: str) -> list[str]:
    """Doubts about two passes over the same images: see `Passes`."""
    found = []
    if record["difference"] > REPEATABLE:
        found.append(
            f"the float network gives different outputs for the same {kind} when it is run again "
            f"({100 * record['difference'] ** 0.5:.2g} % apart): something in it is random, such "
            "as a dropout that is on in evaluation (F.dropout without training=). All figures are "
            "subject to chance"
        )
    if record["constant"]:
        found.append(
            f"the float network gives the same outputs for {record['images']} different {kind}. "
            "Are its weights loaded?"
        )
    return found


class Passes:
    """Outputs of two passes over the same images, compared batch by batch.

    Attributes:
        signal, noise: sums of squares of the first pass and of the difference.
        images: number of images.
        constant: no output differs from that of the first image by more than rounding.
    """

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.images = 0
        self.constant = True
        self._first: tuple[Tensor, Tensor] | None = None
        self._varied = False

    def add(self, images: Tensor, one: Any, other: Any) -> None:
        """Add a batch: images [b, ...], and outputs [b, ...] or a sequence of such."""
        a, b = _rows(one), _rows(other)
        self.signal += float(a.square().sum())
        self.noise += float((a - b).square().sum())
        self.images += len(a)
        if self._first is None:
            self._first = images[0], a[0]
        image, output = self._first
        self._varied |= bool((images != image).any())
        apart = (a - output).abs().max()
        self.constant &= bool(apart <= 1e-6 * output.abs().max())

    def record(self) -> dict[str, Any]:
        """`difference` (energy of the difference, as a fraction), `constant` and `images`."""
        return {
            "difference": self.noise / self.signal if self.signal else float(self.noise > 0),
            "constant": self.constant and self._varied,
            "images": self.images,
        }


def _rows(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    parts = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return torch.cat([part.detach().double().flatten(1).cpu() for part in parts], dim=1)
