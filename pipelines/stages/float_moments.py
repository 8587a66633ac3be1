"""Stage: input moments of the float network's normalisations, for every calibration batch.

They do not depend on method or bit width, so a sweep computes them once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.moments import Moments
from quant.statistics import NormMoments, norm_moments


@dataclass(frozen=True)
class FloatMoments:
    """Mean and variance of every channel, for each batch and each run of a norm in it."""

    ON_ALL_RANKS: ClassVar[bool] = True

    def run(self, network: Network, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Tensors per norm: "moments" [runs, mean and variance, channels]; "at" [runs, 2].

        A row of "at" is the run's batch index and the number of positions in its moments.
        """
        module = _CollectMoments(network.module)
        machine.predict("float statistics", module, data.value.fitting_loader())
        batches = machine.ranks.union(module.moments)
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


def moments_of(artifact: Artifact | None) -> dict[int, NormMoments]:
    """Moments that `FloatMoments` stored, by batch index; empty for None."""
    known: defaultdict[int, dict[str, list[Moments]]] = defaultdict(dict)
    tensors = artifact.tensors if artifact is not None else {}
    for key in tensors:
        name, _, kind = key.rpartition("/")
        if kind == "moments":
            places: list[list[int]] = tensors[f"{name}/at"].tolist()
            for (mean, var), (batch, n) in zip(tensors[key], places, strict=True):
                known[batch].setdefault(name, []).append(Moments(mean, var, n))
    return dict(known)


class _CollectMoments(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.moments: dict[int, NormMoments] = {}

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.moments[batch_idx] = norm_moments(self.network, batch[0])
