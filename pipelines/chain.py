"""The parts of a run: its stages, its name and folder, and the context that they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from evaluation.images import ImageData
from pipelines.machine import clock, memory
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages import objective as objectives
from pipelines.stages.activations import QuantizeActivations
from pipelines.stages.batchnorm import CorrectStatistics
from pipelines.stages.calibrate import Calibrate
from pipelines.stages.counts import filled
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.objective import Objective
from pipelines.stages.pictures import Pictures
from pipelines.stages.precision.allocate import Precision
from pipelines.stages.precision.costs import Costs
from pipelines.stages.report import Report
from pipelines.stages.rounding.eptq import TrainRounding
from pipelines.stages.rounding.label_free import LabelFreeHessian
from pipelines.stages.sensitivity import Sensitivity
from pipelines.stages.solving.baseline import Baseline
from pipelines.stages.solving.quantize import QuantizeLayers
from pipelines.stages.solving.solve import needs_importance
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from pipelines.tracking import Tracker


class Model(Protocol):
    """Source of the float network."""

    def check(self) -> None:
        """Raise a ValueError or OSError for a bad setting; reads no data."""

    def load(self, store: Store) -> Network:
        """The float network."""
        ...


@dataclass(frozen=True)
class Chain:
    """All stages of a run, instantiated before the first one starts."""

    model: Model
    data: ImageData
    calibrate: Calibrate
    sensitivity: Sensitivity
    precision: Precision
    quantize: QuantizeLayers
    baseline: Baseline
    batchnorm: CorrectStatistics
    label_free: LabelFreeHessian
    activations: QuantizeActivations
    rounding: TrainRounding | None
    costs: Costs
    evaluate: Evaluate
    pictures: Pictures
    report: Report
    objective: Objective | None

    def fitted(self, chosen: int, readable: int) -> Chain:
        """The same, with numbers of images where a setting leaves them to what there is.

        Args:
            chosen: calibration images.
            readable: of those.
        """
        fitting = readable - self.held_out(readable)
        return replace(
            self,
            calibrate=self.calibrate.fitted(chosen),
            label_free=self.label_free.fitted(chosen),
            rounding=self.rounding and self.rounding.fitted(fitting),
            objective=objectives.fitted(self.objective, readable),
        )

    def held_out(self, images: int) -> int:
        """How many of `images` calibration images the objective holds out."""
        return objectives.held_out_of(self.objective, images)

    @property
    def counts(self) -> dict[str, int | None]:
        """Numbers of calibration images that `fitted` has decided, by setting."""
        found = {
            "calibrate.images": self.calibrate.images,
            "label_free.images": self.label_free.images,
            "objective.images": self.held_out(0),
        }
        if self.rounding is not None:  # rounding is method, in the settings
            found |= dict.fromkeys(("method.held_out", "rounding.held_out"), self.rounding.held_out)
        return found

    @property
    def at_most(self) -> dict[str, int]:
        """How many calibration images its stages look at, at most, by setting."""
        found = dict(self.precision.at_most)
        if self.batchnorm.mode != "none":
            found["batchnorm.compare_images"] = self.batchnorm.compare_images
        if self.activations.bits is not None or self.precision.inputs:
            found["activations.images"] = self.activations.images
        if self.label_free.images is not None and self.weighing:
            found["label_free.images"] = self.label_free.images
        return found

    @property
    def weighing(self) -> bool:
        """Whether anything needs the label-free Hessian."""
        return self.rounding is not None or needs_importance(self.quantize.solve.fit_grid)


@dataclass(frozen=True)
class RunInfo:
    """Name, output folder, seed and metadata of one run.

    Attributes:
        folder: output folder.
        about: first entries of results.json: experiment, method, bits, versions, ...
        config: resolved settings, for the tracker.
        name, group, tags, job_type: for the tracker; a sweep is a group.
        seed: seed for the choice of calibration images and all other randomness.
    """

    folder: Path
    about: Mapping[str, Any]
    config: Mapping[str, Any]
    name: str
    group: str | None
    tags: list[str]
    job_type: str
    seed: int

    def with_counts(self, counts: Mapping[str, int | None]) -> RunInfo:
        """The same, with numbers of images in the settings that leave them open."""
        kept = filled(self.about.get("settings", {}), counts)
        about = {**self.about, **({"settings": kept} if "settings" in self.about else {})}
        return replace(self, about=about, config=filled(self.config, counts))

    def __post_init__(self) -> None:
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not whole or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed!r} must be a whole number from 0 to 2^32 - 1")


@dataclass(eq=False)
class Log:
    """Duration of every stage, reported to the screen and the tracker as the stage ends."""

    machine: Machine
    tracker: Tracker
    seconds: dict[str, float] = field(default_factory=dict)
    cached: dict[str, bool] = field(default_factory=dict)

    def stage(self, name: str, seconds: float, cached: bool, detail: str = "") -> None:
        """Log the end of stage `name` and return its freed memory to the system.

        Args:
            name: stage name, a key of `seconds` in results.json.
            seconds: compute time, in this run or in the run that stored the result.
            cached: whether the result came from the store.
            detail: text after the name and the time.
        """
        self.seconds[name], self.cached[name] = seconds, cached
        self.machine.screen.stage(name, seconds, cached, detail)
        self.tracker.stage(name, seconds, cached)
        memory.trim()

    def artifact(self, name: str, artifact: Artifact, detail: str = "") -> None:
        """Log stage `name`, which produced one artifact."""
        self.artifacts(name, [artifact], detail)

    def artifacts(self, name: str, artifacts: Collection[Artifact], detail: str = "") -> None:
        """Log stage `name`, which produced several artifacts."""
        seconds, cached = sum(a.seconds for a in artifacts), all(a.cached for a in artifacts)
        self.stage(name, seconds, cached, detail)


@dataclass(frozen=True, eq=False)
class RunContext:
    """What the steps of a run share.

    Attributes:
        chain: all stages.
        network: the float network.
        log: log of the finished stages.
        begin: start of the run, by `clock.seconds`.
    """

    chain: Chain
    store: Store
    machine: Machine
    tracker: Tracker
    info: RunInfo
    network: Network
    log: Log
    begin: float = field(default_factory=lambda: clock.seconds())

    @property
    def images(self) -> Keyed[ImageData]:
        """Calibration images."""
        return Keyed(self.chain.data, self.chain.data.calibration_key)

    @property
    def evaluation(self) -> Keyed[ImageData]:
        """Evaluation images."""
        return Keyed(self.chain.data, self.chain.data.outputs_key)

    @property
    def reference(self) -> Keyed[nn.Module | None]:
        """The float network, to compare quantized ones with."""
        return Keyed(self.network.module, self.network.key)

    def evaluate(self, module: Keyed[nn.Module], reference: Keyed[nn.Module | None]) -> Artifact:
        """Outputs of `module` on the evaluation images."""
        return self.store.run(self.chain.evaluate, module, reference, self.evaluation, self.machine)

    def float_outputs(self) -> Artifact:
        """Outputs of the float network on the evaluation images."""
        return self.evaluate(Keyed(self.network.module, self.network.key), Keyed(None, ""))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of every finished stage, and "total" since the start of the run."""
        return {**self.log.seconds, "total": clock.seconds() - self.begin}
