"""From the float network to the quantized one: calibrate, allocate, analyse, quantize, correct
statistics, activations, train the rounding.

The model never travels between stages, differences from it do: every stage starts from the float
network plus artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pipelines.chain import RunContext
from pipelines.stages.activations import with_activations
from pipelines.stages.batchnorm import corrected
from pipelines.stages.calibrate import layers_of
from pipelines.stages.precision.allocate import Allocation, AllocationContext
from pipelines.stages.rounding.result import (
    trained_activations,
    trained_statistics,
    trained_weights,
)
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.solve import wants_importance
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import LockedError
from quant.layers import Layer


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """What the stages gave.

    Attributes:
        sensitivity, predicted: None in a search over settings: they are only for the report.
        statistics: corrected ones; with trained biases, if any.
        activations: grids of the layers' inputs; None: they stay in floating point.
        trained: of the rounding; None: it was not.
        best: the network with all of it.
        uncorrected: the network with its float statistics, and without training.
    """

    calibration: Artifact
    layers: Mapping[str, Layer]
    allocation: Allocation
    sensitivity: Artifact | None
    predicted: Artifact | None
    weights: QuantizedWeights
    statistics: Artifact
    activations: Artifact | None
    trained: Artifact | None
    best: Keyed[nn.Module]
    uncorrected: Keyed[nn.Module]


def quantize(running: RunContext) -> QuantizedModel:
    """Run these stages."""
    chain, store, machine, log = running.chain, running.store, running.machine, running.log
    network, images = running.network, running.images

    calibration = _calibrated(running)
    layers = layers_of(calibration)
    log.artifact("calibrate", calibration, f"{len(layers)} layers")

    known_layers = Keyed(layers, calibration.key)
    weighing = wants_importance(chain.quantize.solve.fit_grid)
    hessian = None
    if weighing or chain.rounding is not None:
        hessian = store.run(chain.label_free, network, known_layers, images, machine)
        log.artifact("label-free", hessian, "Hessian of the outputs")
    importance = hessian if weighing else None

    allocation = chain.precision.allocate(
        AllocationContext(
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

    sensitivity = predicted = None
    if chain.objective is None:  # they are only for the report
        predicted = store.run(chain.sensitivity.prediction, network, calibration, machine, *more)
        sensitivity = store.run(chain.sensitivity, *given)
        log.artifacts("sensitivity", [predicted, sensitivity])

    weights = chain.quantize.run(store, network, images, calibration, bits, machine, importance)
    log.stage("quantize", weights.seconds + weights.collecting, weights.cached)

    quantized = Keyed(
        weights.applied_to(network.module), f"{network.key} {weights.key} {sorted(weights.means)}"
    )
    floats = [store.run(stage, network, images, machine) for stage in chain.batchnorm.prepared_by()]
    statistics = store.run(chain.batchnorm, network, quantized, images, machine, *floats)
    kept = "kept" if statistics.record["kept"] else "not kept"
    log.stage(
        "batchnorm",
        statistics.seconds + sum(found.seconds for found in floats),
        statistics.cached,
        f"{chain.batchnorm.mode}, {kept}",
    )

    final = Keyed(corrected(quantized.value, statistics), f"{quantized.key} {statistics.key}")
    best = final if statistics.record["kept"] else quantized

    activations = None
    if quantize_inputs.bits is not None:
        activations = store.run(quantize_inputs, best, known_layers, images, machine)
        log.artifact("activations", activations, _range(activations.record["bits"]))
        best, quantized = (
            Keyed(
                with_activations(weights_only.value, activations),
                f"{weights_only.key} {activations.key}",
            )
            for weights_only in (best, quantized)
        )

    trained = None
    if chain.rounding is not None:
        assert hessian is not None  # see above
        trained = store.run(chain.rounding, network, best, weights, hessian, images, machine)
        log.artifact("rounding", trained, f"{trained.record['flipped']:.1%} of the codes changed")
        weights = replace(weights, training=trained.record["seconds"])  # spent, kept or not
        if trained.record["kept"]:
            weights = trained_weights(weights, trained)
            statistics = trained_statistics(statistics, trained)
            changed = corrected(weights.applied_to(network.module), statistics)
            if activations is not None:
                activations = trained_activations(activations, trained)
                changed = with_activations(changed, activations)
            best = Keyed(changed, f"{best.key} {trained.key}")

    return QuantizedModel(
        calibration=calibration,
        layers=layers,
        allocation=allocation,
        sensitivity=sensitivity,
        predicted=predicted,
        weights=weights,
        statistics=statistics,
        activations=activations,
        trained=trained,
        best=best,
        uncorrected=quantized,
    )


def _calibrated(running: RunContext) -> Artifact:
    """The calibration. While another run is at it, this one does what needs none."""
    chain, store = running.chain, running.store
    given = running.network, running.images, running.machine
    if not running.machine.ranks.several:
        try:
            return store.without_waiting.run(chain.calibrate, *given)
        except LockedError:
            for stage in chain.batchnorm.prepared_by():
                store.run(stage, *given)
            if chain.objective is None:
                running.float_outputs()
    return store.run(chain.calibrate, *given)


def _range(bits: Mapping[str, int]) -> str:
    low, high = min(bits.values()), max(bits.values())
    return f"{low} bits" if low == high else f"{low} to {high} bits"
