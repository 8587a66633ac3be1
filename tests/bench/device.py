"""A profile of this processor for conf/device/: peaks and bandwidth as they are reached here.

    python tests/bench/device.py --threads 2

Peaks are the fastest tenth of many products of two 512 x 512 matrices, in float32 and in int8
(uint8 times int8, as a quantized layer's), by onnxruntime's own profiler, of runs that no other
process interrupted; bandwidth is the fastest of many copies of 64 MB, read and written; the launch
is the median of a layer of 8 multiply-adds.
"""

from __future__ import annotations

import argparse
import time

import torch

from pipelines.machine.host import Host
from pipelines.machine.machine import Machine
from pipelines.stages.precision.timing import TimeLayer
from pipelines.store.artifacts import Keyed
from quant.costs.geometry import LayerGeometry
from quant.costs.measured import Timing

SIDE = 512
COPIED = 2**24  # float32 numbers


def timings(use: LayerGeometry, host: Host, repeats: int) -> dict[str, Timing]:
    """Of both kernels."""
    record = (
        TimeLayer(repeats=repeats, attempts=10 * repeats, warmup=10)
        .run(Keyed(use, ""), host)
        .record
    )
    return {name: Timing(**found) for name, found in record["timings"].items()}


def peaks(host: Host, repeats: int) -> dict[str, float]:
    """10^12 operations a second."""
    square = LayerGeometry((SIDE, SIDE), 1, (SIDE, SIDE), (SIDE, SIDE))
    found = timings(square, host, repeats)
    return {kernel: 2 * SIDE**3 / (one.low * 1e9) for kernel, one in found.items()}


def bandwidth(repeats: int) -> float:
    """10^9 bytes a second, read and written together."""
    source, target = torch.zeros(COPIED), torch.zeros(COPIED)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * 4 * COPIED / min(seconds) / 1e9


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    host = Host.of(Machine("cpu", 1, "32-true", arguments.threads))
    print(f"{host.cpu}, {host.threads} threads, onnxruntime {host.onnxruntime}")
    for kernel, rate in peaks(host, arguments.repeats).items():
        print(f"{kernel}: {rate:.3f} * 10^12 operations a second")
    print(f"bandwidth: {bandwidth(10 * arguments.repeats):.1f} * 10^9 bytes a second")
    for kernel, one in timings(LayerGeometry((4, 2), 1, (1, 2), (1, 4)), host, 1000).items():
        print(f"launch, {kernel}: {1e3 * one.ms:.0f} microseconds")


if __name__ == "__main__":
    main()
