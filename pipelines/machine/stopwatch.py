"""Seconds of a computation on the CPU, with the machine that they belong to."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pipelines.machine import clock


@dataclass(frozen=True)
class Place:
    """What a time depends on: only times of equal places can be compared.

    Attributes:
        host: name of the machine.
        cpu: its processor.
        threads: of torch.
        kernels: version of torch, and the instruction set and BLAS library that it uses.
    """

    host: str
    cpu: str
    threads: int
    kernels: str

    @classmethod
    def here(cls) -> Place:
        """This machine, with the current number of threads."""
        blas = "mkl" if torch.backends.mkl.is_available() else "no mkl"  # type: ignore[no-untyped-call]
        kernels = f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {blas}"
        return cls(platform.node(), cpu_name(), torch.get_num_threads(), kernels)

    @property
    def machine(self) -> tuple[str, str, str]:
        """All but the threads, which follow from the size of a layer."""
        return self.host, self.cpu, self.kernels

    @property
    def key(self) -> str:
        """Store key: all fields as JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass
class Stopwatch:
    """A measured time.

    Attributes:
        seconds: those of the clock, or of the processor where these are fewer: a process that was
            stopped or had to wait for the processor has not computed meanwhile.
        place: where.
        load: processes that wanted the processors, on average over a minute.
    """

    seconds: float = 0.0
    place: Place = field(default_factory=lambda: Place.here())
    load: float | None = None

    @property
    def record(self) -> dict[str, Any]:
        """`seconds`, and `timed`: where, and under which load."""
        return {"seconds": self.seconds, "timed": {**asdict(self.place), "load": self.load}}


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure the context."""
    watch = Stopwatch()
    begin, busy = clock.seconds(), clock.processor_seconds()
    yield watch
    busy, passed = clock.processor_seconds() - busy, clock.seconds() - begin
    watch.seconds = min(passed, busy)
    watch.load = _load()


def place_of(record: dict[str, Any]) -> Place:
    """The place of a record that `Stopwatch.record` has become part of."""
    return Place(**{name: value for name, value in record["timed"].items() if name != "load"})


@functools.cache
def cpu_name() -> str:
    """Name of the CPU, or at least its architecture."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None
