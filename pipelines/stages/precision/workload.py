"""Stage: workload of every layer on one image, for the cost models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.costs.geometry import LayerGeometry
from quant.costs.remainder import Operation, Remainder, remainder
from quant.costs.workload import Workload, workloads
from quant.layers import Layer


@dataclass(frozen=True)
class RecordWorkloads:
    """Runs the network on the first calibration image."""

    def run(
        self,
        network: Network,
        layers: Keyed[Mapping[str, Layer]],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Record: the `Workload` of every layer, and of what else the network does."""
        example, _ = next(iter(data.value.calibration_loader(first=1)))
        recorded = workloads(network.module, example, layers.value)
        rest = remainder(network.module, example, layers.value)
        return Artifact(
            {},
            {
                "workloads": [asdict(workload) for workload in recorded.values()],
                "operations": [asdict(operation) for operation in rest.operations],
                "stored": asdict(rest.stored),
                "matrices": rest.matrices,
            },
        )


def workloads_of(artifact: Artifact) -> dict[str, Workload]:
    """Workloads that `RecordWorkloads` stored, by layer."""
    rows = [_with_tuples(row) for row in artifact.record["workloads"]]
    return {row["name"]: Workload(**{**row, "geometries": _geometries(row)}) for row in rows}


def remainder_of(artifact: Artifact) -> Remainder:
    """What `RecordWorkloads` stored of the rest of the network."""
    record = artifact.record
    operations = [Operation(**_with_tuples(row)) for row in record["operations"]]
    return Remainder(operations, Operation(**_with_tuples(record["stored"])), record["matrices"])


def _geometries(row: Mapping[str, Any]) -> tuple[LayerGeometry, ...]:
    return tuple(LayerGeometry(**_with_tuples(geometry)) for geometry in row["geometries"])


def _with_tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of JSON, as the tuples that they were."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in row.items()}
