"""Evaluation of the quantized network: baseline, metrics, report; or the objective of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.doubts import of_passes
from evaluation.images import ImageData
from pipelines.chain import Chain, RunContext
from pipelines.quantizing import QuantizedModel
from pipelines.reproducing import provenance
from pipelines.stages import counts
from pipelines.stages.calibrate import keyed_layers
from pipelines.stages.float_check import CheckFloat
from pipelines.stages.objective import Objective, ObjectiveContext, write
from pipelines.stages.precision.allocate import Allocation
from pipelines.stages.precision.workload import RecordWorkloads, remainder_of, workloads_of
from pipelines.stages.report import Findings
from pipelines.stages.solving.same_machine import comparable
from pipelines.store import image_keys
from pipelines.tracking import lineage
from quant.layers import Layer


def doubts(context: RunContext) -> list[str]:
    """Reasons not to believe the float network's figures, printed before anything is quantized.

    A search evaluates nothing, so it knows only whether the outputs change.
    """
    chain, machine = context.chain, context.machine
    data = chain.data
    passes = context.store.run(CheckFloat(), context.network, context.images, machine)
    found = of_passes(passes.record, data.kind)
    if chain.objective is None:
        found += data.doubts(context.float_outputs().tensors)
    for doubt in found if not machine.ranks.rank else ():
        machine.screen.line(f"  {doubt}", style="bold red")
    return found


def measure(
    context: RunContext,
    objective: Objective,
    held_out: ImageData,
    model: QuantizedModel,
    doubts: Sequence[str],
) -> dict[str, Any]:
    """Compute a search's objective on held-out calibration images; write objective.json."""
    chain, machine, info = context.chain, context.machine, context.info
    figures = objective.measure(
        ObjectiveContext(
            store=context.store,
            network=context.network,
            module=model.best,
            weights=model.weights,
            held_out=image_keys.calibration(held_out),
            machine=machine,
        )
    )
    record = {
        **info.about,
        "seed": info.seed,
        "inputs": chain.quantize.inputs,
        "model": context.network.name,
        "calibrated_on": len(chain.data.calibration),
        "images_taken": _taken(chain),
        "held_out": len(held_out.calibration),
        "objective": figures,
        "doubts": list(doubts),
        "seconds": context.seconds,
        "cached": context.log.cached,
        "output_dir": str(info.folder),
    }
    if machine.ranks.rank:  # one process writes
        return record
    write(record, info.folder)
    context.tracker.summary(record)
    machine.screen.line(f"  {figures['name']} {figures['value']:.6g}")
    return record


def evaluate(context: RunContext, model: QuantizedModel, doubts: Sequence[str]) -> dict[str, Any]:
    """Run the baseline, the evaluation and the report; returns the content of results.json."""
    chain, store, machine, log = context.chain, context.store, context.machine, context.log
    network, tracker, info = context.network, context.tracker, context.info

    baseline = chain.baseline.run(store, model.weights, model.allocation.bits, machine)
    if baseline:
        estimated = any(layer.estimated for layer in baseline.values())
        log.stage(
            "baseline",
            sum(layer.spent for layer in baseline.values()),
            all(layer.cached for layer in baseline.values()),
            "OBQ, some rows; the rest is estimated" if estimated else "OBQ, all rows",
        )

    times = comparable(
        store,
        chain.baseline.solve,
        chain.quantize.solve,
        model.weights,
        model.allocation.bits,
        baseline,
        machine,
    )
    if times.again:
        machine.screen.line(
            f"  {len(times.again)} layers were timed again: the store has their times from another "
            "machine, number of threads or version of torch",
            style="dim",
        )

    reference, float_outputs = context.reference, context.float_outputs()
    uncorrected = context.evaluate(model.uncorrected, reference)
    moved = context.evaluate(model.means_moved, reference) if model.means_moved else None
    outputs = context.evaluate(model.best, reference)
    evaluated = (float_outputs, uncorrected, outputs, *([moved] if moved else []))
    distinct = {artifact.key: artifact for artifact in evaluated}
    log.artifacts("evaluate", distinct.values())

    pictures = store.run(chain.pictures, reference, model.best, context.evaluation, machine)

    layers = keyed_layers(model.layers, model.calibration)
    recorded = store.run(RecordWorkloads(), network, layers, context.images, machine)

    # None only with an objective
    assert model.sensitivity is not None and model.predicted is not None
    findings = Findings(
        network=network,
        module=model.best.value,
        data=chain.data,
        calibration=model.calibration,
        sensitivity=model.sensitivity,
        predicted=model.predicted,
        weights=model.weights,
        baseline=baseline,
        times=times,
        statistics=model.statistics,
        float_outputs=float_outputs,
        uncorrected_outputs=uncorrected,
        means_moved_outputs=moved,
        outputs=outputs,
        pictures=pictures,
        activations=model.activations,
        rounding=model.trained,
        precision=model.allocation.record,
    )
    if machine.ranks.rank:  # one process writes the results
        return {}
    inputs = model.activations.record["bits"] if model.activations is not None else None
    begin = {
        **info.about,
        **_average(model.allocation, model.layers),
        **chain.costs.run(
            workloads_of(recorded), remainder_of(recorded), model.allocation.bits, inputs
        ),
        "seed": info.seed,
        "inputs": chain.quantize.inputs,
        "model": network.name,
        "machine": machine.describe(),
        "computed_with": provenance.computed_with(log.versions),
        "fingerprints": provenance.fingerprints(chain.model, network, chain.data),
        "seconds": context.seconds,
        "cached": log.cached,
        "images_taken": _taken(chain),
        "skipped_images": chain.data.skipped,
        "doubts": list(doubts),
    }
    results, images = chain.report.run(findings, begin, info.folder)
    tracker.layers(results["layers"])
    tracker.plots(images)
    lineage.tell(tracker, info.name, model.calibration, results)
    tracker.summary({key: value for key, value in results.items() if key != "settings"})
    return results


def _taken(chain: Chain) -> dict[str, int]:
    """Calibration images that the stages have looked at, by the setting that says how many."""
    there = len(chain.data.calibration)
    return {"calibrate.images": there, **counts.taken(chain.at_most, there)}


def _average(allocation: Allocation, layers: Mapping[str, Layer]) -> dict[str, float]:
    """Mean bits of a weight, and of a layer's input, where the allocation searched for them."""
    if allocation.record is None:
        return {}
    weights = {name: math.prod(layers[name].shape) for name in layers}
    total = sum(allocation.bits[name] * count for name, count in weights.items())
    average = {"weight_bits": round(total / sum(weights.values()), 3)}
    if allocation.inputs:
        average["act_bits"] = round(sum(allocation.inputs.values()) / len(allocation.inputs), 3)
    return average
