"""The chain, in order: calibrate, allocate, analyse, quantize, correct, activations, train the
rounding, baseline, evaluate, report.

The model never travels between stages, differences from it do: every stage starts from the float
network plus artifacts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lightning import seed_everything
from torch import nn

from evaluation.images import ImageData
from pipelines import fingerprint, memory, origin, preflight
from pipelines.artifacts import Keyed
from pipelines.interruption import interruptible
from pipelines.machine import Machine
from pipelines.models.network import Network
from pipelines.reporting.summary import nearby, print_table
from pipelines.stages.activations import QuantizeActivations, with_activations
from pipelines.stages.allocate import Allocation, Given, Precision
from pipelines.stages.baseline import Baseline
from pipelines.stages.batchnorm import CorrectStatistics, corrected
from pipelines.stages.calibrate import Calibrate, layers_of
from pipelines.stages.costs import Costs
from pipelines.stages.eptq import TrainRounding, trained_inputs, trained_statistics, trained_weights
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.label_free import LabelFreeHessian
from pipelines.stages.objective import Objective, Quantized, write
from pipelines.stages.pictures import Pictures
from pipelines.stages.quantize import QuantizeLayers
from pipelines.stages.report import Findings, Report
from pipelines.stages.sensitivity import Sensitivity
from pipelines.stages.solve import wants_importance
from pipelines.store import Store
from pipelines.tracking import Tracker, lineage
from quant.layers import Layer


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
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r} must be a whole number, at least 0")


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


def run(
    chain: Chain, store: Store, machine: Machine, tracker: Tracker, about: Run
) -> dict[str, Any]:
    """Run the chain; returns the content of results.json, or of objective.json.

    Raises:
        ValueError, OSError: bad input; found before calibration starts where that is possible.
    """
    fingerprint.closure(fingerprint.modules(chain))  # read now: the source may change meanwhile
    machine.use()
    seed_everything(about.seed, verbose=False)
    network = prepare(chain, store, machine, about)
    known = {key: about.about.get(key) for key in ("source", "versions", "command")}
    tracker.start(
        about.config,
        about.name,
        about.folder,
        about.group,
        about.tags,
        about.job_type,
        {**known, "machine": machine.describe()},
    )
    try:
        results = _stages(chain, store, machine, tracker, about, network)
    except BaseException as err:
        with suppress(Exception):
            tracker.fail(err)
        raise
    tracker.finish()
    if machine.ranks.rank:
        return results
    if chain.objective is None and not machine.screen.brief:
        print_table(results, machine.screen.console)
    if tracker.where:
        machine.screen.line(f" W&B                 {nearby(tracker.where)}", style="dim")
    return results


@interruptible()
def prepare(chain: Chain, store: Store, machine: Machine, about: Run) -> Network:
    """Load the network, choose the images, and check all that can be checked by now."""
    preflight.writable(about.folder, "the output folder", "set hydra.run.dir to another one")
    preflight.writable(store.root, "the store", "set OBLIQ_CACHE to another folder")
    preflight.settings_work(chain.quantize.solve, chain.baseline.solve, bits=chain.precision.bits)
    if chain.rounding is not None:
        held_out = chain.objective.images if chain.objective is not None else 0
        chain.rounding.check(chain.calibrate.images - held_out, machine.ranks.world)
    chain.model.check()
    data, calibrate = chain.data, chain.calibrate
    with machine.screen.busy("loading the network"):
        network = chain.model.load(store)
    with machine.screen.busy("listing the images"):
        data.prepare(
            network.data_config,
            calibrate.images,
            about.seed,
            calibrate.batch_size,
            calibrate.copies,
        )
    check = preflight.CheckImages(data.skip_bad)
    images = Keyed(data, f"{data.calibration_key},{data.evaluation_key}")
    checked = store.run(check, images, machine)
    if checked.record["skipped"] and not data.skipped:
        data.check()  # leaves out the images that were found before, or by another process
    hessians = preflight.network_fits(network, data, chain.precision)
    if chain.rounding is not None or wants_importance(chain.quantize.solve.fit_grid):
        preflight.layers_run_once(network, data)
    if not store.has(calibrate, network, Keyed(data, data.calibration_key), machine):
        preflight.enough_space(store.root, hessians)
    return network


@interruptible()
def _stages(
    chain: Chain, store: Store, machine: Machine, tracker: Tracker, about: Run, network: Network
) -> dict[str, Any]:
    start = time.perf_counter()
    log = Log(machine, tracker)
    held_out = chain.data.hold_out(chain.objective.images if chain.objective is not None else 0)
    images = Keyed(chain.data, chain.data.calibration_key)
    evaluation = Keyed(chain.data, chain.data.evaluation_key)

    calibration = store.run(chain.calibrate, network, images, machine)
    layers = layers_of(calibration)
    log.stage("calibrate", calibration.seconds, calibration.cached, f"{len(layers)} layers")

    known_layers = Keyed(layers, calibration.key)
    weighing = wants_importance(chain.quantize.solve.fit_grid)
    hessian = None
    if weighing or chain.rounding is not None:
        hessian = store.run(chain.label_free, network, known_layers, images, machine)
        log.stage("label-free", hessian.seconds, hessian.cached, "Hessian of the outputs")
    importance = hessian if weighing else None

    allocation = chain.precision.allocate(
        Given(
            store=store,
            network=network,
            images=images,
            calibration=calibration,
            layers=layers,
            importance=importance,
            quantize=chain.quantize,
            activations=chain.activations,
            machine=machine,
        )
    )
    bits = allocation.bits
    quantize_inputs = chain.activations.with_bits(allocation.inputs)
    width = Keyed(bits, str(sorted(bits.items())))
    more = [importance] if importance else []
    given: tuple[Any, ...] = (network, calibration, width, machine, *more)
    searched = allocation.record is not None
    known = allocation.cached if searched else store.has(chain.sensitivity, *given)
    log.stage("allocate", allocation.seconds, known, _range(bits))

    sensitivity = None
    if chain.objective is None:  # it is only for the report
        sensitivity = store.run(chain.sensitivity, *given)
        log.stage("sensitivity", sensitivity.seconds, sensitivity.cached)

    weights = chain.quantize.run(store, network, images, calibration, bits, machine, importance)
    log.stage("quantize", weights.seconds + weights.collecting, weights.cached)

    quantized = Keyed(
        weights.applied_to(network.module), f"{network.key} {weights.key} {sorted(weights.means)}"
    )
    moments = [store.run(m, network, images, machine) for m in chain.batchnorm.prepared_by()]
    statistics = store.run(chain.batchnorm, network, quantized, images, machine, *moments)
    kept = "kept" if statistics.record["kept"] else "not kept"
    log.stage(
        "batchnorm",
        statistics.seconds + sum(found.seconds for found in moments),
        statistics.cached,
        f"{chain.batchnorm.mode}, {kept}",
    )

    final = Keyed(corrected(quantized.value, statistics), f"{quantized.key} {statistics.key}")
    best = final if statistics.record["kept"] else quantized

    activations = None
    if quantize_inputs.bits is not None:
        activations = store.run(quantize_inputs, best, known_layers, images, machine)
        log.stage(
            "activations",
            activations.seconds,
            activations.cached,
            _range(activations.record["bits"]),
        )
        best, quantized = (
            Keyed(
                with_activations(weights_only.value, layers, activations),
                f"{weights_only.key} {activations.key}",
            )
            for weights_only in (best, quantized)
        )

    trained = None
    if chain.rounding is not None:
        assert hessian is not None  # see above
        trained = store.run(chain.rounding, network, best, weights, hessian, images, machine)
        detail = f"{trained.record['flipped']:.1%} of the codes changed"
        log.stage("rounding", trained.seconds, trained.cached, detail)
        weights = replace(weights, training=trained.record["seconds"])  # spent, kept or not
        if trained.record["kept"]:
            weights = trained_weights(weights, trained)
            statistics = trained_statistics(statistics, trained)
            changed = corrected(weights.applied_to(network.module), statistics)
            if activations is not None:
                activations = trained_inputs(activations, trained, layers)
                changed = with_activations(changed, layers, activations)
            best = Keyed(changed, f"{best.key} {trained.key}")

    if chain.objective is not None:  # a search over settings never sees the evaluation images
        judged = Keyed(held_out, held_out.calibration_key)
        objective = chain.objective.measure(
            Quantized(store, network, best, weights, judged, machine)
        )
        record = {
            **about.about,
            "seed": about.seed,
            "inputs": chain.quantize.inputs,
            "model": network.name,
            "calibrated_on": len(chain.data.calibration),
            "held_out": len(held_out.calibration),
            "objective": objective,
            "seconds": {**log.seconds, "total": time.perf_counter() - start},
            "cached": log.cached,
            "output_dir": str(about.folder),
        }
        if machine.ranks.rank:  # one process writes
            return record
        write(record, about.folder)
        tracker.summary(record)
        machine.screen.line(f"  {objective['name']} {objective['value']:.6g}")
        return record

    assert sensitivity is not None  # see above
    baseline = chain.baseline.run(store, weights, bits, machine)
    took = sum(layer.seconds for layer in baseline.values())
    guessed = any(layer.estimated for layer in baseline.values())
    log.stage(
        "baseline",
        took,
        all(layer.cached for layer in baseline.values()),
        "OBQ, an estimate from some rows" if guessed else "OBQ, all rows",
    )

    inputs = activations.record["bits"] if activations is not None else {}
    reference: Keyed[nn.Module | None] = Keyed(network.module, network.key)
    float_outputs, uncorrected, outputs = (
        store.run(chain.evaluate, module, other, evaluation, machine)
        for module, other in (
            (reference, Keyed(None, "")),
            (quantized, reference),
            (best, reference),
        )
    )
    log.stage(
        "evaluate",
        float_outputs.seconds + outputs.seconds,
        all(found.cached for found in (float_outputs, uncorrected, outputs)),
    )

    pictures = store.run(chain.pictures, reference, best, evaluation, machine)

    found = Findings(
        network=network,
        data=chain.data,
        calibration=calibration,
        sensitivity=sensitivity,
        weights=weights,
        baseline=baseline,
        statistics=statistics,
        float_outputs=float_outputs,
        uncorrected_outputs=uncorrected,
        outputs=outputs,
        pictures=pictures,
        activations=activations,
        rounding=trained,
        precision=allocation.record,
    )
    if machine.ranks.rank:  # one process writes the results
        return {}
    begin = {
        **about.about,
        **_average(allocation, layers),
        **chain.costs.run(network, chain.data, layers, bits, inputs),
        "seed": about.seed,
        "inputs": chain.quantize.inputs,
        "model": network.name,
        "machine": machine.describe(),
        "fingerprints": origin.fingerprints(chain.model, network, chain.data),
        "seconds": {**log.seconds, "total": time.perf_counter() - start},
        "cached": log.cached,
        "skipped_images": chain.data.skipped,
    }
    results = chain.report.run(found, begin, about.folder)
    tracker.layers(results["layers"])
    drawn = [p for kind in ("plots/*.png", "pictures/*.jpg") for p in about.folder.glob(kind)]
    tracker.plots({p.stem: p for p in sorted(drawn)})
    lineage.tell(tracker, about.name, calibration, results)
    tracker.summary({key: value for key, value in results.items() if key != "settings"})
    return results


def _average(allocation: Allocation, layers: Mapping[str, Layer]) -> dict[str, float]:
    """Bits of a weight, and of a layer's input, where the allocation has searched for them."""
    if allocation.record is None:
        return {}
    weights = {name: math.prod(layers[name].shape) for name in layers}
    total = sum(allocation.bits[name] * count for name, count in weights.items())
    found = {"weight_bits": round(total / sum(weights.values()), 3)}
    if allocation.inputs:
        found["act_bits"] = round(sum(allocation.inputs.values()) / len(allocation.inputs), 3)
    return found


def _range(bits: Mapping[str, int]) -> str:
    low, high = min(bits.values()), max(bits.values())
    return f"{low} bits" if low == high else f"{low} to {high} bits"
