"""Stage: one number that says how good settings are, from calibration images alone.

A search over settings minimises it, and never looks at the evaluation images: those tell afterwards
how good what it found is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from evaluation.images import ImageData
from evaluation.split import spared
from pipelines.machine.disk import replacing
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.batchnorm import Compare
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store


@dataclass(frozen=True, eq=False)
class Quantized:
    """What there is to judge: a network, and how it came about."""

    store: Store
    network: Network
    module: Keyed[nn.Module]
    weights: QuantizedWeights
    held_out: Keyed[ImageData]
    machine: Machine


class Objective(Protocol):
    """What a search minimises."""

    def held_out_of(self, images: int) -> int:
        """How many of so many calibration images nothing may be fitted to."""
        ...

    def fitted(self, images: int) -> Objective:
        """The same, where there are so many calibration images."""
        ...

    def measure(self, given: Quantized) -> dict[str, Any]:
        """`value`, and more figures for the record."""
        ...


@dataclass(frozen=True)
class Divergence:
    """Mean KL divergence from the float network on calibration images that are held out.

    Attributes:
        images: the first so many, the same ones however many there are; the rest calibrates. None:
            `max_images`, but at most half of the calibration images.
        max_images: of those.
    """

    TOGETHER: ClassVar[bool] = True

    images: int | None
    max_images: int

    def __post_init__(self) -> None:
        for name in ("images", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"objective.{name}={value} must be at least 1")

    def held_out_of(self, images: int) -> int:
        """At least one."""
        found = max(1, spared(images, self.max_images))
        return found if self.images is None else self.images

    def fitted(self, images: int) -> Divergence:
        """The same, with the number of those that are held out of so many images."""
        held_out = self.held_out_of(images)
        return replace(self, images=held_out, max_images=held_out)

    def measure(self, given: Quantized) -> dict[str, Any]:
        """KL in nats; agreement (percent) and sqnr_db beside it."""
        found = given.store.run(self, given.network, given.module, given.held_out, given.machine)
        return {"name": "kl", "value": found.record["kl"], **found.record}

    def run(
        self,
        network: Network,
        quantized: Keyed[nn.Module],
        held_out: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Record: kl, agreement, sqnr_db."""
        compare = Compare(held_out.value, network.module, quantized.value)
        machine.predict("objective", compare, held_out.value.calibration_loader())
        (total,) = compare.of_all(machine)
        return Artifact({}, total.figures())


@dataclass(frozen=True)
class LayerLoss:
    """Geometric mean over layers of tr(D H D^T) relative to rounding to nearest on the same grids.

    No network runs. H is the one that weights are fitted to, so it cannot compare calibrations.
    """

    def held_out_of(self, images: int) -> int:
        """None."""
        return 0

    def fitted(self, images: int) -> LayerLoss:
        """The same."""
        return self

    def measure(self, given: Quantized) -> dict[str, Any]:
        """Layers without a loss to lose (both are 0) count as 1."""
        ratios = {
            name: (float(s.tensors["loss"].sum()), float(s.tensors["loss_rtn"].sum()))
            for name, s in given.weights.solutions.items()
        }
        logs = [math.log(loss / rtn) if loss > 0 < rtn else 0.0 for loss, rtn in ratios.values()]
        return {"name": "loss", "value": math.exp(sum(logs) / len(logs))}


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Write `objective.json`."""
    with replacing(folder / "objective.json") as draft:
        draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
