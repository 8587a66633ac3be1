"""Stage: what every layer does on one image, for what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.costs.geometry import LayerGeometry
from quant.costs.workload import Workload, workloads
from quant.layers import Layer


@dataclass(frozen=True)
class MeasureWork:
    """See quant/costs/workload.py."""

    def run(
        self,
        network: Network,
        layers: Keyed[Mapping[str, Layer]],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Record: the `Work` of every layer on the first calibration image."""
        example, _ = next(iter(data.value.calibration_loader(first=1)))
        found = workloads(network.module, example, layers.value)
        return Artifact({}, {"work": [asdict(work) for work in found.values()]})


def works_of(found: Artifact) -> dict[str, Workload]:
    """What `MeasureWork` has stored, by layer."""
    rows = [_tuples(row) for row in found.record["work"]]
    return {
        row["name"]: Workload(
            **{**row, "uses": tuple(LayerGeometry(**_tuples(u)) for u in row["uses"])}
        )
        for row in rows
    }


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in row.items()}
