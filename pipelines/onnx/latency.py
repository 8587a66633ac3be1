"""How long whole networks take in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.machine import clock
from pipelines.onnx.session import session

WARMUP = 3  # discarded runs of each network at the start


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a run: the median, and the tenth and the ninetieth percentile."""

    median: float
    p10: float
    p90: float


def latency(
    paths: Mapping[str, Path],
    example: NDArray[Any],
    threads: int,
    repeats: int,
    *,
    precise: bool = False,
) -> dict[str, Latency]:
    """Time networks in this process, in turn, so that all meet the same load on the machine.

    Args:
        paths: files by name, each with one input.
        example: the input of all of them.
        threads: threads per operator.
        repeats: timed runs of each.
        precise: see `session`.
    """
    sessions = {name: session(path, threads, precise=precise) for name, path in paths.items()}
    inputs = {name: {each.get_inputs()[0].name: example} for name, each in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in paths}
    for attempt in range(WARMUP + repeats):
        for name, each in sessions.items():
            start = clock.seconds()
            each.run(None, inputs[name])
            if attempt >= WARMUP:
                times[name].append(1e3 * (clock.seconds() - start))
    return {
        name: Latency(*(float(v) for v in np.percentile(each, [50, 10, 90])))
        for name, each in times.items()
    }
