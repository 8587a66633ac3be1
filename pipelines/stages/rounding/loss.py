"""The loss of EPTQ, BRECQ and AdaRound: how far the quantized network is from the float one.

With z_l the output of layer l in the float (f) and in the quantized network (q), x an image and
w_l(x) its score (see quant/label_free.py), M = max_l mean_x w_l(x):

    loss = (1/M) (sum_l mean_x w_l(x) |z_l^q - z_l^f|^2
                  + lambda sum_l mean_x(w_l) sum_i 1 - |2 h_i - 1|^beta)

|.|^2 is summed over channels and averaged over positions. That is the published loss. Ours is

    mean_x D(x) + gamma sum_l mean_x w_l(x) |z_l^q - z_l^f|^2

where D is the task's own divergence of the outputs, |.|^2 a sum over positions too, so that every
layer estimates the same change of the outputs, and the outputs themselves count in D alone. gamma
makes the second term `features` times the first one at the start.

Gradients pass through the whole network (scope "network", EPTQ, arXiv 2309.11531), or stop at the
input of every block ("block", BRECQ, arXiv 2102.05426) or layer ("layer", AdaRound, arXiv
2004.10568), all of which train at the same time, by the published loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.stages.rounding.schedule import Schedule
from quant.label_free import channels_last, tapped
from quant.rounding import Rounding, beta_at


@dataclass(eq=False)
class Task:
    """What is trained, and towards what.

    Attributes:
        reference: the float network.
        quantized: with `Rounding` on its weights and `LearnedQuantize` on its inputs.
        data: images, and what "close to the float network" means.
        taps: modules whose outputs are compared.
        scores: w_l(x) of every training image and tap, [n, L].
        weights: of every `Rounding` in the regulariser, its layer's mean score.
        activations: "gradual", "qdrop" or "direct".
        feature_weight: of the layers' outputs beside the task's divergence, relative to it at the
            start; None: the published loss.
        images: the first so many calibration images are trained on.
        held_out: so many behind those are not; they tell how good the network is.
        seed: of the order of the images.
    """

    reference: nn.Module
    quantized: nn.Module
    data: ImageData
    taps: Sequence[str]
    scores: Tensor
    weights: Sequence[float]
    activations: str
    feature_weight: float | None
    images: int
    held_out: int
    seed: int

    @cached_property
    def largest(self) -> float:
        """M of the published loss; ours is not divided by it."""
        return float(self.scores.mean(0).max()) if self.feature_weight is None else 1.0


def distances(task: Task, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence of the outputs (0 in the published loss), and the sum over layers.

    Args:
        task: networks and scores.
        x: images [b, 3, h, w], where the networks are.
        numbers: theirs among the calibration images, [b].
    """
    sums = task.feature_weight is not None
    x = channels_last(x)
    with torch.no_grad(), tapped(task.reference, task.taps) as wanted:
        expected = task.reference(x)
    with tapped(task.quantized, task.taps) as found:
        outputs = task.quantized(x)
    scores = task.scores[numbers].to(x.device)
    total = x.new_zeros((), dtype=torch.float32)
    for column, name in enumerate(task.taps):
        if name in wanted:
            error = squared(found.pop(name).float() - wanted.pop(name).float(), sums)
            total = total + (scores[:, column] * error).mean()
    total = total / task.largest
    if not sums:
        return torch.zeros_like(total), total
    return task.data.divergence(task.quantized, expected, outputs).mean(), total


def in_chunks(
    data: ImageData, numbers: Sequence[int], size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """These calibration images in batches of `size`, and their numbers."""
    parts = [list(numbers[i : i + size]) for i in range(0, len(numbers), size)]
    return data.calibration_batches(parts)


@torch.no_grad()
def balance(task: Task, schedule: Schedule, device: torch.device) -> float:
    """gamma, from what both terms are on the first images; 1 in the published loss."""
    if task.feature_weight is None:
        return 1.0
    count = min(4 * schedule.batch_size, task.images)
    total = torch.zeros(2, dtype=torch.float64)
    for x, which in in_chunks(task.data, range(count), schedule.micro_batch_size):
        terms = torch.stack(distances(task, x.to(device), which))
        total = total + terms.double().cpu() * (len(x) / count)
    outputs, layers = total.tolist()
    return task.feature_weight * outputs / layers if layers > 0 else 0.0


def regulariser(
    task: Task, roundings: Sequence[Rounding], schedule: Schedule, progress: float
) -> Tensor | None:
    """The term that drives rounding to a decision, if its kind needs one; progress in 0 ... 1."""
    first, last = schedule.beta
    beta = beta_at(progress, first, last, schedule.warmup)
    pairs = zip(roundings, task.weights, strict=True)
    terms = [(r.regulariser(beta), weight) for r, weight in pairs]
    found = [term * weight for term, weight in terms if term is not None]
    if not found:
        return None
    return torch.stack(found).sum() * (schedule.regularisation / task.largest)


def squared(difference: Tensor, positions: bool) -> Tensor:
    """Sum over channels of the squares, mean over positions, or with `positions` their sum: [b].

    Args:
        difference: [b, channels, h, w], [b, tokens, channels] or [b, channels].
        positions: sum over positions instead of their mean.
    """
    square = difference.square()
    square = square.sum(2) if square.dim() == 3 else square.sum(1)
    square = square.flatten(1) if square.dim() > 1 else square[:, None]
    return square.sum(1) if positions else square.mean(1)
