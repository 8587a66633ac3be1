"""Stage: latency of each layer on this CPU, in float32 and int8, measured with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np

from pipelines.machine.host import Host
from pipelines.machine.machine import Machine
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store
from quant.costs.geometry import LayerGeometry
from quant.costs.measured import Measured, Timing
from quant.costs.workload import CostModel, Workload

OPERATORS = {"float32": ("Conv", "FusedConv", "Gemm"), "int8": ("QLinearConv", "QGemm")}
PERCENTILES = (10, 50, 90)  # of a timing: low, ms, high


@dataclass(frozen=True)
class TimeLayer:
    """Time one layer geometry, with random weights and one random input.

    The time is the operator's own, from onnxruntime's profiler. It excludes the call from Python,
    and the layout and type conversions at the layer's borders, which neighbouring layers share.

    Attributes:
        repeats: timed runs per kernel, without those that another process interrupted; the kernels
            alternate.
        attempts: maximum number of runs per kernel, interrupted ones included.
        warmup: untimed runs before.
    """

    repeats: int
    attempts: int
    warmup: int

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.attempts < self.repeats or self.warmup < 0:
            raise ValueError(
                f"cost.repeats={self.repeats} must be at least 1, cost.attempts={self.attempts} at "
                f"least as many, cost.warmup={self.warmup} at least 0"
            )

    def run(self, geometry: Keyed[LayerGeometry], host: Host) -> Artifact:
        """Record: {"timings": {kernel: a Timing}, "layer", "host"}.

        Raises:
            ValueError: onnxruntime runs the layer in another precision.
        """
        from pipelines.onnx.layer import Affine, float_model, int8_model
        from pipelines.onnx.session import time_interleaved

        layer, draw = geometry.value, np.random.default_rng(0)
        weight = draw.standard_normal(layer.shape, dtype=np.float32)
        x = draw.standard_normal(layer.input, dtype=np.float32)
        bias = draw.standard_normal(len(weight), dtype=np.float32)
        spread = float(np.sqrt(weight[0].size))  # standard deviation of the outputs
        grid, result = Affine.covering(x), Affine(8 * spread / 255, 128)
        models = {
            "float32": (float_model(layer, weight, bias), x),
            "int8": (int8_model(layer, weight, bias, grid, result), grid.codes(x)),
        }
        times = time_interleaved(models, host.threads, self.warmup, self.repeats, self.attempts)
        timings = {n: timing(n, runs.operators, runs.interrupted) for n, runs in times.items()}
        return Artifact(
            {},
            {
                "layer": layer.key,
                "timings": {name: asdict(timed) for name, timed in timings.items()},
                "host": asdict(host),
            },
        )


def timing(kernel: str, operators: Mapping[str, list[float]], interrupted: int) -> Timing:
    """Median and percentiles of the layer's operator.

    Raises:
        ValueError: there is no such operator: the layer ran in another precision.
    """
    runs = next((operators[name] for name in OPERATORS[kernel] if name in operators), None)
    if runs is None:
        raise ValueError(
            f"onnxruntime {version('onnxruntime')} has no {kernel} kernel for this layer: it ran "
            f"{', '.join(sorted(operators))} instead of {' or '.join(OPERATORS[kernel])}. Use "
            "another cost model: cost=roofline device=cpu"
        )
    low, median, high = (float(p) for p in np.percentile(runs, PERCENTILES))
    return Timing(median, low, high, len(runs), interrupted)


def measure(
    stage: TimeLayer, store: Store, workloads: Mapping[str, Workload], machine: Machine
) -> Measured:
    """The cost model of these layers on this machine, from a timing per distinct geometry."""
    host = Host.of(machine)
    geometries: dict[str, tuple[str, LayerGeometry]] = {}
    for name, workload in workloads.items():
        for geometry in workload.geometries:
            geometries.setdefault(geometry.key, (name, geometry))
    table = {}
    with machine.screen.bar("time layers", len(geometries)) as advance:
        for key, (name, geometry) in geometries.items():
            try:
                record = store.run(stage, Keyed(geometry, key), host).record
            except ValueError as err:
                err.add_note(f"in layer {name}")
                raise
            table[key] = {kernel: Timing(**timed) for kernel, timed in record["timings"].items()}
            advance(1)
    return Measured(table)


def cost_model(
    cost: CostModel | TimeLayer, store: Store, workloads: Mapping[str, Workload], machine: Machine
) -> CostModel:
    """The cost model that a file of conf/cost/ configures; takes timings if it needs them."""
    return measure(cost, store, workloads, machine) if isinstance(cost, TimeLayer) else cost
