"""What a run consists of: its stages, its names, and where they run."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from evaluation.images import ImageData
from pipelines.machine import memory
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.activations import QuantizeActivations
from pipelines.stages.batchnorm import CorrectStatistics
from pipelines.stages.calibrate import Calibrate
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
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from pipelines.tracking import Tracker


class Model(Protocol):
    """Where a network comes from."""

    def check(self) -> None:
        """Find what is wrong without reading data."""

    def load(self, store: Store) -> Network:
        """The float network."""
        ...


@dataclass(frozen=True)
class Chain:
    """All stages of a run, built before the first one starts."""

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


@dataclass(frozen=True)
class Run:
    """What one run is called, where it writes, and what its record starts with.

    Attributes:
        folder: output folder of this run.
        about: first entries of results.json: experiment, method, bits, versions, ...
        config: the resolved settings, for the tracker.
        name, group, tags, job_type: for the tracker; a sweep is a group.
        seed: of the choice of calibration images and of everything else that is random.
    """

    folder: Path
    about: Mapping[str, Any]
    config: Mapping[str, Any]
    name: str
    group: str | None
    tags: list[str]
    job_type: str
    seed: int

    def __post_init__(self) -> None:
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not whole or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed!r} must be a whole number from 0 to 2^32 - 1")


@dataclass(eq=False)
class Log:
    """Seconds of every stage, told to the screen and the tracker as they come."""

    machine: Machine
    tracker: Tracker
    seconds: dict[str, float] = field(default_factory=dict)
    cached: dict[str, bool] = field(default_factory=dict)

    def stage(self, name: str, seconds: float, cached: bool, detail: str = "") -> None:
        """Stage `name` is over, and its memory is free; `seconds` is what computing it took.

        Now, or when it was stored.
        """
        self.seconds[name], self.cached[name] = seconds, cached
        self.machine.screen.stage(name, seconds, cached, detail)
        self.tracker.stage(name, seconds, cached)
        memory.give_back()

    def artifact(self, name: str, found: Artifact, detail: str = "") -> None:
        """Stage `name` has given this."""
        self.artifacts(name, [found], detail)

    def artifacts(self, name: str, found: Collection[Artifact], detail: str = "") -> None:
        """Stage `name` has given all of these."""
        seconds, cached = sum(a.seconds for a in found), all(a.cached for a in found)
        self.stage(name, seconds, cached, detail)


@dataclass(frozen=True, eq=False)
class RunContext:
    """A run under way.

    Attributes:
        chain: its stages.
        network: the float one.
        log: of the stages that are over.
        begin: when it began, by `time.perf_counter`.
    """

    chain: Chain
    store: Store
    machine: Machine
    tracker: Tracker
    about: Run
    network: Network
    log: Log
    begin: float = field(default_factory=time.perf_counter)

    @property
    def images(self) -> Keyed[ImageData]:
        """Those to calibrate on."""
        return Keyed(self.chain.data, self.chain.data.calibration_key)

    @property
    def evaluation(self) -> Keyed[ImageData]:
        """Those to evaluate on."""
        return Keyed(self.chain.data, self.chain.data.outputs_key)

    @property
    def reference(self) -> Keyed[nn.Module | None]:
        """The float network, for others to be held against."""
        return Keyed(self.network.module, self.network.key)

    def evaluated(self, module: Keyed[nn.Module], reference: Keyed[nn.Module | None]) -> Artifact:
        """What the evaluation images give."""
        return self.store.run(self.chain.evaluate, module, reference, self.evaluation, self.machine)

    def float_outputs(self) -> Artifact:
        """What they give in the float network."""
        return self.evaluated(Keyed(self.network.module, self.network.key), Keyed(None, ""))

    @property
    def seconds(self) -> dict[str, float]:
        """Of every stage so far, and of all."""
        return {**self.log.seconds, "total": time.perf_counter() - self.begin}
