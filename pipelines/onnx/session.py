"""Run ONNX models on this processor, and see how long each of their operators takes."""

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

WARNINGS = 3  # onnxruntime's number for "errors only"


def session(model: bytes, threads: int, profile: Path | None = None) -> ort.InferenceSession:
    """A session with all of onnxruntime's optimisations.

    Args:
        model: serialized.
        threads: of one operator; they sleep while they wait, as others may need the cores.
        profile: where the file with every operator's times goes.
    """
    options = ort.SessionOptions()
    options.log_severity_level = WARNINGS
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Latencies:
    """The runs of a model that count.

    Attributes:
        operators: {operator: milliseconds in each run}.
        interrupted: in how many of them the system let another process go first.
    """

    operators: dict[str, list[float]]
    interrupted: int


def alternately(
    models: dict[str, tuple[bytes, NDArray[Any]]],
    threads: int,
    warmup: int,
    repeats: int,
    attempts: int,
) -> dict[str, Latencies]:
    """Time every operator of each model, one run after the other.

    The models take turns, so that what else happens on the machine slows down all of them alike. On
    a busy one most runs of some milliseconds are interrupted, and then wait for longer than they
    work: runs go on until `repeats` of each model were not, `attempts` at most, and the `repeats`
    least interrupted ones count.

    Args:
        models: {name: (model, its input "x")}.
        warmup: runs of each before the others.

    Returns:
        By name; times are onnxruntime's own profiler's: without the call from Python, in steps of
        a microsecond.
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
            if all(found.count(0) >= repeats for found in switches.values()):
                break
        profiles = {name: Path(s.end_profiling()) for name, s in sessions.items()}
        return {
            name: _least_interrupted(_operators(path), warmup, switches[name], repeats)
            for name, path in profiles.items()
        }


def _interruptions() -> int:
    """How often the system has stopped this process to run another; 0 where it does not tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def _operators(profile: Path) -> dict[str, list[float]]:
    """{operator: milliseconds of each time it ran}."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]].append(event["dur"] / 1e3)
    return times


def _least_interrupted(
    times: dict[str, list[float]], warmup: int, switches: list[int], repeats: int
) -> Latencies:
    """Of the runs after the warm-up; an operator that a model holds twice is added up."""
    kept = np.argsort(switches, kind="stable")[:repeats]
    runs = warmup + len(switches)
    found = {name: np.reshape(each, (runs, -1)).sum(1)[warmup:] for name, each in times.items()}
    return Latencies(
        {name: each[kept].tolist() for name, each in found.items()},
        interrupted=int(np.count_nonzero(np.array(switches)[kept])),
    )
