"""Stage: what the normalisations of the float network get of every calibration batch.

The same for every method and bit width, so the jobs of a sweep run the float network for it once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightning import LightningModule
from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.moments import Moments
from quant.statistics import NormMoments, norm_moments


@dataclass(frozen=True)
class FloatMoments:
    """Mean and variance of every channel, batch by batch and run by run."""

    TOGETHER: ClassVar[bool] = True

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Tensors, for each norm: moments [runs, mean and variance, channels], at [runs, 2].

        `at` has a run's batch, and over how many positions its moments are.
        """
        module = _Record(network.module)
        machine.predict("float statistics", module, data.value.fitting_loader())
        batches = machine.ranks.union(module.found)
        moments: defaultdict[str, list[Tensor]] = defaultdict(list)
        at: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for batch in sorted(batches):
            for name, runs in batches[batch].items():
                moments[name] += [torch.stack([run.mean, run.var]).cpu() for run in runs]
                at[name] += [(batch, run.n) for run in runs]
        return Artifact(
            {f"{name}/moments": torch.stack(found) for name, found in moments.items()}
            | {f"{name}/at": torch.tensor(places) for name, places in at.items()},
            {"batches": len(batches)},
        )


def known_of(found: Artifact | None) -> dict[int, NormMoments]:
    """What `FloatMoments` has stored, by batch; nothing of None."""
    known: defaultdict[int, dict[str, list[Moments]]] = defaultdict(dict)
    tensors = found.tensors if found is not None else {}
    for key in tensors:
        name, _, kind = key.rpartition("/")
        if kind == "moments":
            places: list[list[int]] = tensors[f"{name}/at"].tolist()
            for (mean, var), (batch, n) in zip(tensors[key], places, strict=True):
                known[batch].setdefault(name, []).append(Moments(mean, var, n))
    return dict(known)


class _Record(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.found: dict[int, NormMoments] = {}

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.found[batch_idx] = norm_moments(self.network, batch[0])
