"""The CPU and runtime that a measured time depends on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from pipelines.machine.machine import Machine


@dataclass(frozen=True)
class Host:
    """A CPU, and how onnxruntime uses it.

    Attributes:
        cpu: name of the CPU.
        instructions: its instruction-set flags; empty if the system does not list them.
        cores: cores of the CPU.
        threads: threads of onnxruntime.
        onnxruntime: version of onnxruntime.
    """

    cpu: str
    instructions: str
    cores: int
    threads: int
    onnxruntime: str

    @classmethod
    def of(cls, machine: Machine) -> Host:
        """This host; onnxruntime gets as many threads as torch."""
        return cls(
            cpu=machine.describe()["cpu"],
            instructions=_instructions(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            onnxruntime=version("onnxruntime"),
        )

    @property
    def key(self) -> str:
        """Store key: all fields as JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def _instructions() -> str:
    """The CPU's flags: a name like "AMD EPYC" says little about the speed of int8."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    flags = (line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features")))
    return " ".join(sorted(next(flags, "").split()))
