"""`make bench`: quality and speed of row_parallel against OBQ, in one run, as one table.

Quality: layer loss relative to OBQ's, geometric mean over all layers of real networks with their
calibrated Hessians, on the same evenly spaced rows. Speed: all layer shapes of ResNet-50 with
random weights and the Hessians that real images give there; each distinct shape is solved once and
counts as often as it occurs. OBQ runs on some rows of a shape where all would take long; the time
that is then scaled up is an estimate. No figure here decides a test.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from pipelines.machine.machine import Machine
from pipelines.machine.threads import solving
from pipelines.stages.solving.baseline import TimeInverse, estimate
from pipelines.stages.solving.solve import LayerInput, evenly, float_inputs
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from quant.grid import Grid
from quant.methods import gptq, row_parallel, rtn
from quant.order import ORDERS
from quant.problem import LayerProblem

Method = Callable[[LayerProblem, Grid], Tensor]
CONF = str(Path(__file__).parents[2] / "conf")
NETWORKS = ("digits", "cifar10_resnet20", "cifar10_resnet56", "imagenet_mobilenet_v1")
BITS = (4, 3, 2)
ROWS = 8  # of a layer, for the quality part
WORK = 1e10  # r c^3 of the rows on which OBQ is timed, for each shape of ResNet-50
UNTIMED = ("  block 64", "  block 256", "  10 sweeps")  # 64 is the default


@dataclass(frozen=True)
class Setting:
    """What the configuration says: the default method and its grid."""

    method: Method
    obq: Method
    fit_grid: Callable[[Tensor, int], Grid]
    damping: float


def configured(overrides: Iterable[str]) -> tuple[Setting, dict[str, LayerInput]]:
    """The layers of an experiment, calibrated through the store, and the default settings."""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        cfg = hydra.compose("run", [*overrides, "tracking=none"])
        build = partial(instantiate, _convert_="all")
        network_of, data, calibrate = (build(cfg[k]) for k in ("model", "data", "calibrate"))
        setting = Setting(
            build(cfg.method), build(cfg.baseline.solve.method), build(cfg.grid), cfg.damping
        )
        machine: Machine = build(cfg.machine)
    machine.setup()
    store = Store(Path(os.environ.get("OBLIQ_CACHE") or user_cache_path("obliq")))
    network = network_of.load(store)
    data.prepare(
        network.data_config,
        calibrate.images,
        0,
        calibrate.batch_size,
        calibrate.augmented_copies,
        calibrate.max_images,
    )
    calibrate = calibrate.fitted(len(data.calibration))
    calibration = store.run(calibrate, network, Keyed(data, data.calibration_key), machine)
    return setting, float_inputs(network, calibration, cfg.quantize.inputs)


def variants(setting: Setting) -> dict[str, Method]:
    """The default, and what changes when one of its choices changes."""
    default: dict[str, object] = setting.method.keywords  # type: ignore[attr-defined]

    def changed(**change: object) -> Method:
        return partial(row_parallel.quantize, **{**default, **change})  # type: ignore[arg-type]

    blocks = {f"  block {b}": changed(block_size=b) for b in (32, 64, 128, 256)}
    bare = {"refine": False, "sweeps": 0}
    return {
        "obq": setting.obq,
        "rtn": rtn.quantize,
        "gptq (diag)": partial(gptq.quantize, order="diag"),
        "row_parallel (default)": setting.method,
        **blocks,
        "  no refinement": changed(refine=False),
        "  no coordinate descent": changed(cd_passes=0),
        "  10 sweeps": changed(cd_passes=10),
        "  order sensitivity": changed(order="sensitivity"),
        **{f"  only order {o}": changed(order=o, **bare) for o in ORDERS},
    }


def quality(name: str) -> dict[tuple[str, int], float]:
    """log of the loss relative to OBQ's, mean over layers, by variant and bits."""
    setting, layers = configured([f"experiment={name}"])
    methods = variants(setting)
    logs: Counter[tuple[str, int]] = Counter()
    for layer in track(layers.values(), f"{name} quality", transient=True):
        whole = layer.problem()
        rows = evenly(ROWS, layer.layer.rows)
        problem = whole.take_rows(rows)
        ready = problem.prepared(setting.damping)
        for bits in BITS:
            grid = setting.fit_grid(whole.W, bits).rows(rows)
            with solving(layer.layer):
                losses = {
                    v: max(float(problem.loss(m(ready, grid)).sum()), 1e-30)
                    for v, m in methods.items()
                }
            for v, loss in losses.items():
                logs[v, bits] += math.log(loss / losses["obq"]) / len(layers)  # type: ignore[assignment]
    return dict(logs)


def speed() -> tuple[dict[str, float], int, int]:
    """Seconds of every variant on ResNet-50's shapes; OBQ's rows that ran, and all of them."""
    setting, layers = configured(
        ["experiment=imagenet_resnet50", "model.pretrained=false", "calibrate.images=16"]
    )
    shapes = Counter((x.layer.groups, x.layer.rows, x.layer.columns) for x in layers.values())
    first = {(x.layer.groups, x.layer.rows, x.layer.columns): x for x in reversed(layers.values())}
    seconds: Counter[str] = Counter()
    ran = 0
    timed = {v: m for v, m in variants(setting).items() if v not in UNTIMED and "order" not in v}
    for shape, count in track(shapes.items(), "ResNet-50 speed", transient=True):
        _, r, c = shape
        problem = first[shape].problem()
        grid = setting.fit_grid(problem.W, BITS[0])
        for v, method in timed.items():
            rows = evenly(max(1, int(WORK / c**3)), r) if v == "obq" else evenly(r, r)
            with solving(first[shape].layer):
                start = time.perf_counter()
                method(problem.take_rows(rows).prepared(setting.damping), grid.rows(rows))
                took = time.perf_counter() - start
            if len(rows) < r:  # the inverse is paid once a layer
                shared = TimeInverse(setting.damping).run(Keyed(first[shape], "")).record["seconds"]
                took = estimate(took, shared, len(rows), r)
            seconds[v] += count * took  # type: ignore[assignment]
            ran += count * len(rows) if v == "obq" else 0
    return dict(seconds), ran, sum(n * s[1] for s, n in shapes.items())


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--no-speed", action="store_true")
    arguments = parser.parse_args()
    known = [n for n in arguments.networks if n == "digits" or os.environ.get("OBLIQ_DATA")]
    ratios = {name: quality(name) for name in known}
    seconds, ran, total = ({}, 0, 0) if arguments.no_speed else speed()
    table = Table(title=f"layer loss relative to OBQ at {'/'.join(map(str, BITS))} bits", box=None)
    for heading in (
        "method",
        *(n.removeprefix("imagenet_") for n in known),
        "ResNet-50 s",
        "speed-up",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    names = [v for v, bits in next(iter(ratios.values()), {}) if bits == BITS[0]] or list(seconds)
    for v in names:
        cells = (" ".join(f"{math.exp(r[v, b]):.3f}" for b in BITS) for r in ratios.values())
        s = seconds.get(v)
        times = ("", "") if s is None else (f"{s:.1f}", f"{seconds['obq'] / s:.0f}")
        table.add_row(v, *cells, *times)
    console = Console(width=max(100, 30 + 22 * (len(known) + 1)))
    console.print(table)
    if total:
        most = torch.get_num_threads()
        console.print(
            f"OBQ's seconds are an estimate: {ran} of {total} rows ran; {ROWS} rows of every layer "
            f"for the losses. A thread for every million weights of a layer, {most} at most."
        )


if __name__ == "__main__":
    main()
