"""Run ONNX models on this CPU and time each of their operators."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

ERRORS_ONLY = 3  # a severity level of onnxruntime


def session(
    model: bytes | Path, threads: int, profile: Path | None = None, *, precise: bool = False
) -> ort.InferenceSession:
    """A session with all of onnxruntime's graph optimisations.

    Args:
        model: serialised ONNX model, or its file.
        threads: threads per operator; idle ones sleep, as other processes may need the cores.
        profile: path prefix of a file with the times of every operator; None: no profiling.
        precise: take slower integer operators whose 16-bit sums of int8 products cannot overflow,
            as they do on x86 processors without VNNI, and do not round activations that the file
            does not quantize.
    """
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Latencies:
    """Timings of the selected runs of a model.

    Attributes:
        operators: {operator: milliseconds in each run}.
        interrupted: number of runs in which the process was preempted.
    """

    operators: dict[str, list[float]]
    interrupted: int


def time_interleaved(
    models: dict[str, tuple[bytes, NDArray[Any]]],
    threads: int,
    warmup: int,
    repeats: int,
    attempts: int,
) -> dict[str, Latencies]:
    """Time every operator of each model, with the runs of all models interleaved.

    Interleaving exposes all models to the same load on the machine. On a busy machine most runs of
    a few milliseconds are preempted, and then wait longer than they compute. Runs therefore repeat
    until `repeats` runs of each model were not preempted, up to `attempts`, and the `repeats` least
    preempted ones are selected.

    Args:
        models: {name: (model, its input "x")}.
        threads: threads per operator.
        warmup: discarded runs of each model at the start.
        repeats: number of selected runs per model.
        attempts: maximum number of runs per model, without the warm-up.

    Returns:
        Latencies by name, from onnxruntime's profiler: without the call from Python, with a
        resolution of a microsecond.
    """
    switches: dict[str, list[int]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: session(model, threads, Path(folder) / f"{number}")
            for number, (name, (model, _)) in enumerate(models.items())
        }
        for attempt in range(warmup + attempts):
            for name, (_, x) in models.items():
                before = _interruptions()
                sessions[name].run(None, {"x": x})
                if attempt >= warmup:
                    switches[name].append(_interruptions() - before)
            if all(counts.count(0) >= repeats for counts in switches.values()):
                break
        profiles = {name: Path(s.end_profiling()) for name, s in sessions.items()}
        return {
            name: _least_interrupted(_operators(path), warmup, switches[name], repeats)
            for name, path in profiles.items()
        }


def _interruptions() -> int:
    """Number of times this process was preempted; 0 on systems that do not report it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def _operators(profile: Path) -> dict[str, list[float]]:
    """{operator: milliseconds of each execution}."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]].append(event["dur"] / 1e3)
    return times


def _least_interrupted(
    times: dict[str, list[float]], warmup: int, switches: list[int], repeats: int
) -> Latencies:
    """Select runs after the warm-up; times of several operators of one type are added up."""
    selected = np.argsort(switches, kind="stable")[:repeats]
    runs = warmup + len(switches)
    sums = {name: np.reshape(each, (runs, -1)).sum(1)[warmup:] for name, each in times.items()}
    return Latencies(
        {name: each[selected].tolist() for name, each in sums.items()},
        interrupted=int(np.count_nonzero(np.array(switches)[selected])),
    )
