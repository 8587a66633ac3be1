"""The stages from the float network to the quantized one.

Calibrate, allocate bits, analyse sensitivity, quantize weights, correct statistics, quantize
activations, train the rounding. Stages do not pass a model on, only artifacts: each one starts from
the float network and applies them to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pipelines.chain import RunContext
from pipelines.stages.activations import with_activations
from pipelines.stages.batchnorm import corrected
from pipelines.stages.calibrate import keyed_layers, layers_of
from pipelines.stages.precision.allocate import Allocation, AllocationContext
from pipelines.stages.rounding.result import (
    trained_activations,
    trained_statistics,
    trained_weights,
)
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.solve import needs_importance
from pipelines.store import fingerprint
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import LockedError
from quant.layers import Layer


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """Results of all stages up to the quantized network.

    Attributes:
        sensitivity, predicted: for the report only; None in a search over settings.
        statistics: corrected statistics, with trained biases if there are any.
        activations: grids of the layers' inputs; None: these stay in floating point.
        trained: result of the rounding training; None without one.
        best: the final network.
        uncorrected: the quantized weights (and inputs, with act_bits) and nothing else: the
            statistics are those of the float network, and nothing is trained.
        means_moved: that with the running means moved by the change of the layers' mean outputs;
            None where no mean was moved (quantize.inputs=float, or no BatchNorm).
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
    means_moved: Keyed[nn.Module] | None


def quantize(context: RunContext) -> QuantizedModel:
    """Run all stages up to the quantized network."""
    chain, store, machine, log = context.chain, context.store, context.machine, context.log
    network, images = context.network, context.images

    calibration = _calibrated(context)
    layers = layers_of(calibration)
    log.artifact("calibrate", calibration, f"{len(layers)} layers")

    used = keyed_layers(layers, calibration)
    weighted = needs_importance(chain.quantize.solve.fit_grid)
    hessian = None
    if chain.weighing:
        hessian = store.run(chain.label_free, network, used, images, machine)
        log.artifact("label-free", hessian, "Hessian of the outputs")
    importance = hessian if weighted else None

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
    keyed_bits = Keyed(bits, str(sorted(bits.items())))
    optional = [importance] if importance else []
    inputs: tuple[Any, ...] = (network, calibration, keyed_bits, machine, *optional)
    searched = allocation.record is not None
    cached = allocation.cached if searched else store.has(chain.sensitivity, *inputs)
    log.stage("allocate", allocation.seconds, cached, _range(bits))

    sensitivity = predicted = None
    if chain.objective is None:  # for the report only
        prediction = chain.sensitivity.prediction
        predicted = store.run(prediction, network, calibration, machine, *optional)
        sensitivity = store.run(chain.sensitivity, *inputs)
        log.artifacts("sensitivity", [predicted, sensitivity])

    weights = chain.quantize.run(store, network, images, calibration, bits, machine, importance)
    log.computed_with("quantize", weights.solutions.values())
    log.stage("quantize", weights.seconds + weights.collecting, weights.cached)

    quantized = _keyed(weights.applied_to(network.module), network.key, weights.key)
    floats = [
        store.run(stage, network, images, machine) for stage in chain.batchnorm.prerequisites()
    ]
    statistics = store.run(chain.batchnorm, network, quantized, images, machine, *floats)
    kept = "kept" if statistics.record["kept"] else "not kept"
    log.computed_with("batchnorm", [*floats, statistics])
    log.stage(
        "batchnorm",
        statistics.seconds + sum(artifact.seconds for artifact in floats),
        statistics.cached,
        f"{chain.batchnorm.mode}, {kept}",
    )

    final = _keyed(corrected(quantized.value, statistics), quantized.key, statistics.key)
    best = final if statistics.record["kept"] else quantized
    alone = quantized
    if weights.means:
        module = weights.applied_to(network.module, alone=True)
        alone = _keyed(module, network.key, weights.key)

    activations = None
    if quantize_inputs.bits is not None:
        activations = store.run(quantize_inputs, best, used, images, machine)
        log.artifact("activations", activations, _range(activations.record["bits"]))
        best, quantized, alone = (
            _keyed(
                with_activations(weights_only.value, activations),
                weights_only.key,
                activations.key,
            )
            for weights_only in (best, quantized, alone)
        )

    moved, trained = bool(weights.means), None
    if chain.rounding is not None:
        assert hessian is not None  # see above
        trained = store.run(chain.rounding, network, best, weights, hessian, images, machine)
        log.artifact("rounding", trained, f"{trained.record['flipped']:.1%} of the codes changed")
        weights = replace(weights, training=trained.record["seconds"])  # spent even if discarded
        if trained.record["kept"]:
            weights = trained_weights(weights, trained)
            statistics = trained_statistics(statistics, trained)
            changed = corrected(weights.applied_to(network.module), statistics)
            if activations is not None:
                activations = trained_activations(activations, trained)
                changed = with_activations(changed, activations)
            best = _keyed(changed, best.key, trained.key)

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
        uncorrected=alone,
        means_moved=quantized if moved else None,
    )


def _keyed(module: nn.Module, *made_from: str) -> Keyed[nn.Module]:
    """A network that was made here: keyed by its content, and by what it was made from."""
    return Keyed(module, " ".join([*made_from, fingerprint.content(module)]))


def _calibrated(context: RunContext) -> Artifact:
    """Calibrate; while another run computes it, do the work that needs no calibration."""
    chain, store = context.chain, context.store
    inputs = context.network, context.images, context.machine
    if not context.machine.ranks.distributed:
        try:
            return store.without_waiting.run(chain.calibrate, *inputs)
        except LockedError:
            for stage in chain.batchnorm.prerequisites():
                store.run(stage, *inputs)
            if chain.objective is None:
                context.float_outputs()
    return store.run(chain.calibrate, *inputs)


def _range(bits: Mapping[str, int]) -> str:
    low, high = min(bits.values()), max(bits.values())
    return f"{low} bits" if low == high else f"{low} to {high} bits"
