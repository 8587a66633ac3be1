"""How good the quantized network is: baseline, evaluation, report; or a search's objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evaluation.images import ImageData
from pipelines.chain import RunContext
from pipelines.quantizing import QuantizedModel
from pipelines.reproducing import provenance
from pipelines.stages.objective import Objective, Quantized, write
from pipelines.stages.precision.allocate import Allocation
from pipelines.stages.precision.work import MeasureWork, works_of
from pipelines.stages.report import Findings
from pipelines.store.artifacts import Keyed
from pipelines.tracking import lineage
from quant.layers import Layer


def measure(
    running: RunContext, objective: Objective, held_out: ImageData, made: QuantizedModel
) -> dict[str, Any]:
    """For a search over settings, which never sees the evaluation images: objective.json."""
    chain, machine, about = running.chain, running.machine, running.about
    judged = Keyed(held_out, held_out.calibration_key)
    found = objective.measure(
        Quantized(running.store, running.network, made.best, made.weights, judged, machine)
    )
    record = {
        **about.about,
        "seed": about.seed,
        "inputs": chain.quantize.inputs,
        "model": running.network.name,
        "calibrated_on": len(chain.data.calibration),
        "held_out": len(held_out.calibration),
        "objective": found,
        "seconds": running.seconds,
        "cached": running.log.cached,
        "output_dir": str(about.folder),
    }
    if machine.ranks.rank:  # one process writes
        return record
    write(record, about.folder)
    running.tracker.summary(record)
    machine.screen.line(f"  {found['name']} {found['value']:.6g}")
    return record


def evaluate(running: RunContext, made: QuantizedModel) -> dict[str, Any]:
    """The baseline, the evaluation images, the report: results.json."""
    chain, store, machine, log = running.chain, running.store, running.machine, running.log
    network, tracker, about = running.network, running.tracker, running.about

    baseline = chain.baseline.run(store, made.weights, made.allocation.bits, machine)
    took = sum(layer.seconds for layer in baseline.values())
    guessed = any(layer.estimated for layer in baseline.values())
    log.stage(
        "baseline",
        took,
        all(layer.cached for layer in baseline.values()),
        "OBQ, an estimate from some rows" if guessed else "OBQ, all rows",
    )

    reference, float_outputs = running.reference, running.float_outputs()
    uncorrected, outputs = (
        running.evaluated(module, reference) for module in (made.uncorrected, made.best)
    )
    evaluated = {found.key: found for found in (float_outputs, uncorrected, outputs)}
    log.artifacts("evaluate", evaluated.values())

    pictures = store.run(chain.pictures, reference, made.best, running.evaluation, machine)

    layers = Keyed(made.layers, made.calibration.key)
    work = store.run(MeasureWork(), network, layers, running.images, machine)

    assert made.sensitivity is not None and made.predicted is not None  # there is no objective
    found = Findings(
        network=network,
        data=chain.data,
        calibration=made.calibration,
        sensitivity=made.sensitivity,
        predicted=made.predicted,
        weights=made.weights,
        baseline=baseline,
        statistics=made.statistics,
        float_outputs=float_outputs,
        uncorrected_outputs=uncorrected,
        outputs=outputs,
        pictures=pictures,
        activations=made.activations,
        rounding=made.trained,
        precision=made.allocation.record,
    )
    if machine.ranks.rank:  # one process writes the results
        return {}
    inputs = made.activations.record["bits"] if made.activations is not None else {}
    begin = {
        **about.about,
        **_average(made.allocation, made.layers),
        **chain.costs.run(works_of(work), made.allocation.bits, inputs),
        "seed": about.seed,
        "inputs": chain.quantize.inputs,
        "model": network.name,
        "machine": machine.describe(),
        "fingerprints": provenance.fingerprints(chain.model, network, chain.data),
        "seconds": running.seconds,
        "cached": log.cached,
        "skipped_images": chain.data.skipped,
    }
    results, images = chain.report.run(found, begin, about.folder)
    tracker.layers(results["layers"])
    tracker.plots(images)
    lineage.tell(tracker, about.name, made.calibration, results)
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
