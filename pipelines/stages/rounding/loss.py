"""The loss of EPTQ, BRECQ and AdaRound: distance of the quantized network from the float one.

With z_l the output of layer l in the float (f) and in the quantized network (q), x an image and
w_l(x) its score (see quant/label_free.py), M = max_l mean_x w_l(x):

    loss = (1/M) (sum_l mean_x w_l(x) |z_l^q - z_l^f|^2
                  + lambda sum_l mean_x(w_l) sum_i 1 - |2 h_i - 1|^beta)

with |.|^2 summed over channels and averaged over positions. That is the published loss. Ours is

    mean_x D(x) + gamma sum_l mean_x w_l(x) |z_l^q - z_l^f|^2

where D is the task's divergence of the network's outputs and |.|^2 is a sum over positions too, so
that every layer estimates the same change of the outputs. The outputs themselves count in D only.
gamma makes the second term `feature_weight` times the first one at the start.

Gradients pass through the whole network (scope "network", EPTQ, arXiv 2309.11531), or stop at the
input of every block ("block", BRECQ, arXiv 2102.05426) or layer ("layer", AdaRound, arXiv
2004.10568). All blocks or layers then train at the same time, with the published loss.
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
    """The network to train, its reference, and the data.

    Attributes:
        reference: the float network.
        quantized: the network to train, with `Rounding` on its weights and `LearnedQuantize` on
            its activations.
        data: images, and the divergence from the float network's outputs.
        taps: modules whose outputs are compared.
        scores: w_l(x) of every training image and tap, [n, L].
        weights: weight of every `Rounding` in the regulariser: its layer's mean score.
        activations: "gradual", "qdrop" or "direct".
        feature_weight: weight of the layers' outputs relative to the divergence, at the start;
            None: the published loss.
        images: number of training images, the first calibration images.
        held_out: number of validation images, the calibration images after those.
        seed: seed for the order of the images.
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


def distances(task: Task, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence of the outputs (0 in the published loss), and the sum over layers.

    Args:
        task: networks and scores.
        x: images [b, 3, h, w], on the networks' device.
        indices: indices of the images among the calibration images, [b].
    """
    sums = task.feature_weight is not None
    x = channels_last(x)
    with torch.no_grad(), tapped(task.reference, task.taps) as float_taps:
        expected = task.reference(x)
    with tapped(task.quantized, task.taps) as taps:
        outputs = task.quantized(x)
    scores = task.scores[indices].to(x.device)
    total = x.new_zeros((), dtype=torch.float32)
    for column, name in enumerate(task.taps):
        if name in float_taps:
            error = squared(taps.pop(name).float() - float_taps.pop(name).float(), sums)
            total = total + (scores[:, column] * error).mean()
    total = total / task.largest
    if not sums:
        return torch.zeros_like(total), total
    return task.data.divergence(task.quantized, expected, outputs).mean(), total


def in_chunks(
    data: ImageData, indices: Sequence[int], size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of `size` of these calibration images, with their indices."""
    parts = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    return data.calibration_batches(parts)


@torch.no_grad()
def balance(task: Task, schedule: Schedule, device: torch.device) -> float:
    """gamma, from the two terms on the first images; 1 in the published loss."""
    if task.feature_weight is None:
        return 1.0
    count = min(4 * schedule.batch_size, task.images)
    total = torch.zeros(2, dtype=torch.float64)
    for x, indices in in_chunks(task.data, range(count), schedule.micro_batch_size):
        terms = torch.stack(distances(task, x.to(device), indices))
        total = total + terms.double().cpu() * (len(x) / count)
    outputs, layers = total.tolist()
    return task.feature_weight * outputs / layers if layers > 0 else 0.0


def regulariser(
    task: Task, roundings: Sequence[Rounding], schedule: Schedule, progress: float
) -> Tensor | None:
    """The term that pushes rounding variables to 0 or 1; None if their kind needs none.

    Args:
        task: weights of the terms.
        roundings: rounding of every layer.
        schedule: lambda and the exponent's schedule.
        progress: fraction of the steps done, in [0, 1].
    """
    first, last = schedule.beta
    beta = beta_at(progress, first, last, schedule.warmup)
    pairs = zip(roundings, task.weights, strict=True)
    terms = [(r.regulariser(beta), weight) for r, weight in pairs]
    weighted = [term * weight for term, weight in terms if term is not None]
    if not weighted:
        return None
    return torch.stack(weighted).sum() * (schedule.regularisation / task.largest)


def squared(difference: Tensor, positions: bool) -> Tensor:
    """Squares, summed over channels and averaged over positions; [b].

    Args:
        difference: [b, channels, h, w], [b, tokens, channels] or [b, channels].
        positions: sum over positions instead of averaging.
    """
    square = difference.square()
    square = square.sum(2) if square.dim() == 3 else square.sum(1)
    square = square.flatten(1) if square.dim() > 1 else square[:, None]
    return square.sum(1) if positions else square.mean(1)
