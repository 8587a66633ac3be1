"""Stage: how long each layer takes on this processor, in float32 and in int8, by onnxruntime."""

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
SPREAD = (10, 50, 90)  # percentiles of a timing: low, ms, high


@dataclass(frozen=True)
class TimeLayer:
    """Run one use of a layer, with random numbers, on one image.

    What counts is the operator's own time by onnxruntime's profiler: neither the call from Python
    nor changes of layout or type at the layer's borders, which neighbours in a network share.

    Attributes:
        repeats: runs that count, of each kernel; they alternate.
        attempts: runs at most, to find so many that no other process interrupted.
        warmup: runs before.
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

    def run(self, use: Keyed[LayerGeometry], host: Host) -> Artifact:
        """Record: {"timings": {kernel: a Timing}, "layer", "host"}.

        Raises:
            ValueError: onnxruntime runs the layer otherwise than was asked for.
        """
        from pipelines.onnx.layer import Affine, float_model, int8_model
        from pipelines.onnx.session import time_interleaved

        draw = np.random.default_rng(0)
        weight = draw.standard_normal(use.value.shape, dtype=np.float32)
        x = draw.standard_normal(use.value.input, dtype=np.float32)
        bias = draw.standard_normal(len(weight), dtype=np.float32)
        spread = float(np.sqrt(weight[0].size))  # of the outputs
        grid, result = Affine.covering(x), Affine(8 * spread / 255, 128)
        models = {
            "float32": (float_model(use.value, weight, bias), x),
            "int8": (int8_model(use.value, weight, bias, grid, result), grid.codes(x)),
        }
        times = time_interleaved(models, host.threads, self.warmup, self.repeats, self.attempts)
        timings = {n: timing(n, runs.operators, runs.interrupted) for n, runs in times.items()}
        return Artifact(
            {},
            {
                "layer": use.value.key,
                "timings": {name: asdict(found) for name, found in timings.items()},
                "host": asdict(host),
            },
        )


def timing(kernel: str, operators: Mapping[str, list[float]], interrupted: int) -> Timing:
    """Median and spread of the operator that is the layer.

    Raises:
        ValueError: it is not there: the layer ran in another precision.
    """
    runs = next((operators[name] for name in OPERATORS[kernel] if name in operators), None)
    if runs is None:
        raise ValueError(
            f"onnxruntime {version('onnxruntime')} has no {kernel} kernel for this layer: it ran "
            f"{', '.join(sorted(operators))} where one of {', '.join(OPERATORS[kernel])} was "
            "expected. Choose another cost model: cost=roofline device=cpu"
        )
    low, middle, high = (float(p) for p in np.percentile(runs, SPREAD))
    return Timing(middle, low, high, len(runs), interrupted)


def measure(
    stage: TimeLayer, store: Store, workloads: Mapping[str, Workload], machine: Machine
) -> Measured:
    """The cost model of these layers on this machine: times what the store does not hold yet."""
    host = Host.of(machine)
    uses: dict[str, tuple[str, LayerGeometry]] = {}
    for name, work in workloads.items():
        for use in work.geometries:
            uses.setdefault(use.key, (name, use))
    table = {}
    with machine.screen.bar("timing layers", len(uses)) as advance:
        for key, (name, use) in uses.items():
            try:
                record = store.run(stage, Keyed(use, key), host).record
            except ValueError as err:
                err.add_note(f"in layer {name}")
                raise
            table[key] = {kernel: Timing(**found) for kernel, found in record["timings"].items()}
            advance(1)
    return Measured(table)


def cost_model(
    cost: CostModel | TimeLayer, store: Store, workloads: Mapping[str, Workload], machine: Machine
) -> CostModel:
    """What a file of conf/cost/ stands for; timings are taken where it needs them."""
    return measure(cost, store, workloads, machine) if isinstance(cost, TimeLayer) else cost
