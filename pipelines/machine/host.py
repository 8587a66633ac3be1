"""What a time that was measured here depends on besides what was run."""

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
    """A processor, and how onnxruntime uses it.

    Attributes:
        cpu: the processor's name.
        instructions: what it can do, as the system lists it; empty where it does not.
        cores, threads: of the processor, and of onnxruntime.
        onnxruntime: its version.
    """

    cpu: str
    instructions: str
    cores: int
    threads: int
    onnxruntime: str

    @classmethod
    def of(cls, machine: Machine) -> Host:
        """This one, with so many threads as the machine's settings give to torch."""
        about = machine.describe()
        return cls(
            cpu=about["cpu"],
            instructions=_instructions(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            onnxruntime=version("onnxruntime"),
        )

    @property
    def key(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), sort_keys=True)


def _instructions() -> str:
    """The processor's flags: a name like "AMD EPYC" says little of how fast int8 is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    flags = (line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features")))
    return " ".join(sorted(next(flags, "").split()))
