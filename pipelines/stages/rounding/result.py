"""Results of the rounding training, in place of what it started from."""

from __future__ import annotations

from dataclasses import replace

from pipelines.stages.activations import places_of
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.store.artifacts import Artifact


def trained_weights(weights: QuantizedWeights, trained: Artifact) -> QuantizedWeights:
    """The same layers with the trained codes and step sizes."""
    solutions = {}
    for name, before in weights.solutions.items():
        new = {p: trained.tensors[f"{name}/{p}"] for p in ("codes", "scale", "zero", "loss")}
        new["loss_rtn"] = before.tensors["loss_rtn"]
        solutions[name] = replace(before, tensors=new, key=trained.key)
    return replace(weights, solutions=solutions)


def trained_statistics(statistics: Artifact, trained: Artifact) -> Artifact:
    """The corrected statistics plus the trained biases."""
    biases = {
        name.removeprefix("bias/"): value
        for name, value in trained.tensors.items()
        if name.startswith("bias/")
    }
    return replace(statistics, tensors={**statistics.tensors, **biases}, key=trained.key)


def trained_activations(activations: Artifact, trained: Artifact) -> Artifact:
    """The same activation grids with the trained step sizes."""
    scales = {
        f"{name}.act_scale": trained.tensors[f"activation/{place.name}"]
        for name, place in places_of(activations).items()
    }
    return replace(activations, tensors={**activations.tensors, **scales}, key=trained.key)
