"""Stage: correct the normalisation statistics of the quantized network, if that helps.

The correction is kept if it lowers the KL divergence from the float network on calibration images.
Evaluation images are never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from evaluation.datasets import Batches
from evaluation.fidelity import Distance
from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.float_logits import FloatLogits, last, logits_of
from pipelines.stages.float_moments import FloatMoments, moments_of
from pipelines.stages.forward import Forward
from pipelines.store.artifacts import Artifact, Keyed
from quant.reestimation import PASSES, SETTLED, observing, running_statistics
from quant.statistics import Matcher, NormMoments

MODES = ("match", "reestimate", "none")


@dataclass(frozen=True)
class CorrectStatistics:
    """Adjust normalisation statistics to the quantized weights.

    Attributes:
        mode: "match" (quant/statistics.py), "reestimate" (quant/reestimation.py) or "none".
        compare_images: number of calibration images, the last ones, on which KL decides whether
            the correction is kept.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    mode: str
    compare_images: int

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"batchnorm.mode={self.mode!r} must be one of {', '.join(MODES)}")
        if self.compare_images < 1:
            raise ValueError(f"batchnorm.compare_images={self.compare_images} must be at least 1")

    def prerequisites(self) -> list[FloatLogits | FloatMoments]:
        """The stages on the float network whose results `run` takes as `logits`, `moments`."""
        if self.mode == "none":
            return []
        logits = FloatLogits(self.compare_images)
        return [logits, FloatMoments()] if self.mode == "match" else [logits]

    def run(
        self,
        network: Network,
        quantized: Keyed[nn.Module],
        data: Keyed[ImageData],
        machine: Machine,
        logits: Artifact | None = None,
        moments: Artifact | None = None,
    ) -> Artifact:
        """Tensors: changed entries of the state dict. Record: KL before and after, kept or not.

        Args:
            network: the float network.
            quantized: the network to correct.
            data: calibration images.
            machine: runs both networks.
            logits, moments: results of `prerequisites` on the same images; None: recomputed.
        """
        if self.mode == "none":
            return Artifact({}, {"mode": "none", "kept": False})
        corrected, loader = deepcopy(quantized.value), data.value.fitting_loader()
        if self.mode == "match":
            changed = _match(network.module, corrected, moments_of(moments), loader, machine)
        else:
            changed = _reestimate(corrected, loader, machine)
        known = logits_of(logits)
        compare = Compare(data.value, network.module, quantized.value, corrected, known=known)
        machine.predict("compare", compare, last(data.value, self.compare_images))
        before, after = (total.figures()["kl"] for total in compare.of_all(machine))
        kept = bool(changed) and after < before
        record = {"mode": self.mode, "kept": kept, "kl_before": before, "kl_after": after}
        return Artifact(changed if kept else {}, record)


def corrected(module: nn.Module, statistics: Artifact) -> nn.Module:
    """A copy of `module` with the corrected statistics."""
    copy = deepcopy(module)
    copy.load_state_dict({**copy.state_dict(), **statistics.tensors})
    return copy


def _match(
    reference: nn.Module,
    quantized: nn.Module,
    known: Mapping[int, NormMoments],
    loader: Batches,
    machine: Machine,
) -> dict[str, Tensor]:
    """Match the statistics of `quantized`, in place; returns the changed entries."""
    matcher = Matcher(reference, quantized)
    machine.predict("match statistics", _Match(matcher, known), loader)
    shifts = reduce(add, machine.ranks.gather(matcher.shifts))
    if machine.ranks.distributed and shifts.repeated:  # a batch depends on those before it
        matcher = Matcher(reference, quantized)
        machine.predict("match statistics", _Match(matcher, known), loader, shard=False)
    else:
        matcher.shifts = shifts
    return matcher.finish()


def _reestimate(quantized: nn.Module, loader: Batches, machine: Machine) -> dict[str, Tensor]:
    """Re-estimate the statistics of `quantized`, in place; returns them."""
    for _ in range(PASSES):
        with observing(quantized) as seen:
            machine.predict("re-estimate statistics", Forward(quantized), loader)
        if reduce(add, machine.ranks.gather(seen)).write_to(quantized) < SETTLED:
            break
    return running_statistics(quantized)


class _Match(nn.Module):
    def __init__(self, matcher: Matcher, known: Mapping[int, NormMoments]) -> None:
        super().__init__()
        self.networks = nn.ModuleList([matcher.reference, matcher.quantized])
        self.matcher, self.known = matcher, known

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.matcher.step(batch[0], self.known.get(batch_idx))


class Compare(nn.Module):
    """Sums the distances of quantized networks from the float one, in `totals`.

    Batches whose float outputs are in `known` skip the float network.
    """

    def __init__(
        self,
        task: ImageData,
        reference: nn.Module,
        *networks: nn.Module,
        known: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.task = task
        self.reference, self.networks = reference, nn.ModuleList(networks)
        self.totals = [Distance() for _ in networks]
        self.known = known

    def of_all(self, machine: Machine) -> list[Distance]:
        """The totals over all processes, one per network."""
        totals = zip(*machine.ranks.gather(self.totals), strict=True)
        return [sum(parts, Distance()) for parts in totals]

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        known = self.known.get(batch_idx)
        expected = self.reference(batch[0]) if known is None else known.to(batch[0].device)
        for i, network in enumerate(self.networks):
            self.totals[i] += self.task.distance(network, expected, network(batch[0]))
