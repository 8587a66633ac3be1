"""Stage: the objective of a search over settings, from calibration images alone.

The search minimises it and never uses the evaluation images, which stay a fair test of its result.
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
class ObjectiveContext:
    """What an objective may use: the quantized network, its weights, held-out images."""

    store: Store
    network: Network
    module: Keyed[nn.Module]
    weights: QuantizedWeights
    held_out: Keyed[ImageData]
    machine: Machine


class Objective(Protocol):
    """A function for a search to minimise.

    An attribute `images` is the number of calibration images to hold out: no stage fits anything to
    them. Methods `held_out_of` and `fitted`, as `Divergence` has them, let it follow the number of
    calibration images; all three may be absent.
    """

    def measure(self, context: ObjectiveContext) -> dict[str, Any]:
        """`name`, `value`, and further metrics for the record."""
        ...


def held_out_of(objective: Objective | None, images: int) -> int:
    """Number of calibration images to hold out of `images` for the objective."""
    own = getattr(objective, "held_out_of", None)
    return int(own(images) if own else getattr(objective, "images", None) or 0)


def fitted(objective: Objective | None, images: int) -> Objective | None:
    """The objective for a set of `images` calibration images."""
    own = getattr(objective, "fitted", None)
    return own(images) if own else objective


@dataclass(frozen=True)
class Divergence:
    """Mean KL divergence from the float network on held-out calibration images.

    Attributes:
        images: number of held-out images: the first ones, whatever the number of calibration
            images. None: `max_images`, but at most half of the calibration images.
        max_images: limit on those.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

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

    def measure(self, context: ObjectiveContext) -> dict[str, Any]:
        """KL in nats; also agreement in percent, and sqnr_db."""
        found = context.store.run(
            self, context.network, context.module, context.held_out, context.machine
        )
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

    No network runs. H is the Hessian that weights are fitted to, so this objective cannot compare
    calibration settings.
    """

    def measure(self, context: ObjectiveContext) -> dict[str, Any]:
        """A layer whose loss or rounding-to-nearest loss is 0 counts as 1."""
        ratios = {
            name: (float(s.tensors["loss"].sum()), float(s.tensors["loss_rtn"].sum()))
            for name, s in context.weights.solutions.items()
        }
        logs = [math.log(loss / rtn) if loss > 0 < rtn else 0.0 for loss, rtn in ratios.values()]
        return {"name": "loss", "value": math.exp(sum(logs) / len(logs))}


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Write `objective.json`."""
    with replacing(folder / "objective.json") as draft:
        draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
