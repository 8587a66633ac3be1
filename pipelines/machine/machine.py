"""On what a run runs: devices, precision, threads; and the Lightning trainer for its loops.

Devices and threads change a result by rounding only, so they stay outside the store's keys. Half
precision changes more, and is in them.
"""

from __future__ import annotations

import os
import platform
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from evaluation.evaluator import CollectOutputs
from pipelines.machine import memory
from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.ranks import Ranks, on_gpu
from pipelines.machine.screen import Screen

FULL, HALF = "32-true", "16-mixed"
PRECISIONS = (FULL, "bf16-mixed", HALF)


class Predicts(Protocol):
    """A module that `Machine.predict` can send batches through."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """One batch, and its number."""


@dataclass(frozen=True)
class Machine:
    """Devices as Lightning names them.

    Attributes:
        accelerator: "auto", "cpu", "cuda", ...
        devices: how many; a process for each.
        precision: of the networks' loops, one of `PRECISIONS`; Hessians are summed and layers are
            solved in float32 or better.
        threads: CPU threads of a process; None for its share of all cores.
        ranks: this process among those of the run.
    """

    accelerator: str
    devices: int
    precision: str
    threads: int | None
    screen: Screen = field(default_factory=Screen)
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"machine.threads={self.threads} must be at least 1, or null for all")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"machine.precision={self.precision} must be one of {', '.join(PRECISIONS)}: "
                "weights stay in float32 until they are quantized"
            )

    @property
    def key(self) -> str:
        """What results depend on; empty for full precision."""
        return "" if self.precision == FULL else self.precision

    def use(self) -> None:
        """Set the number of threads, and try the devices where they may not be there.

        Raises:
            ValueError: Lightning does not know the accelerator or precision, or it is not there.
        """
        memory.keep_freed()
        if self.threads:
            torch.set_num_threads(self.threads)
        elif self.ranks.several:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.ranks.world))
        there = self.accelerator in ("cpu", "auto") or on_gpu(self.accelerator)
        if not (there and self.devices == 1 and self.precision == FULL):
            self._trainer(lambda n: None)

    def predict(
        self, name: str, module: Predicts, loader: DataLoader[Any], share: bool = True
    ) -> None:
        """Send `loader` through `module.predict_step` under a progress bar.

        With several processes each one sends its share of the batches, all of them without
        `share`; `predict_step` is told a batch's number among those of all processes.

        Args:
            name: of the progress bar.
            module: an nn.Module, which is moved to the device.
            loader: goes through its data set in order.
            share: among the processes.
        """
        loader = self.ranks.share(loader) if share else loader
        steps = self._lightning().steps_of(module)
        with self.screen.bar(name, len(loader)) as advance:
            self._trainer(advance).predict(steps, loader, return_predictions=False)

    def test(self, name: str, module: CollectOutputs, loader: DataLoader[Any]) -> None:
        """Send `loader`, shared likewise, through `module`; the outputs are those of all."""
        loader, module.parts = self.ranks.share(loader), []
        steps = self._lightning().steps_of(module)
        with self.screen.bar(name, len(loader)) as advance:
            self._trainer(advance).test(steps, loader, verbose=False)
        module.join(self.ranks.in_order(module.parts))

    def fit(self, name: str, module: Any, epochs: int, steps: int, folder: Path) -> None:
        """Train for so many epochs, with a checkpoint after each; go on from the last one.

        Args:
            name: of the progress bar.
            module: a LightningModule that gives its own loader, anew for every epoch.
            epochs: in all, those before an interruption included.
            steps: of all epochs together.
            folder: of the checkpoint.
        """
        checkpoint = Checkpoint(folder, "training", "ckpt")
        memory.keep_freed(memory.TRAINING)
        keep = self._lightning().KeepEpochs(checkpoint)
        try:
            with self.screen.bar(name, steps) as advance:
                self._trainer(
                    advance,
                    keep,
                    max_epochs=epochs,
                    reload_dataloaders_every_n_epochs=1,
                    use_distributed_sampler=False,
                    enable_checkpointing=True,
                ).fit(module, ckpt_path=checkpoint.newest(), weights_only=True)
        finally:
            memory.keep_freed()

    def _lightning(self) -> ModuleType:
        """What is imported when the first loop runs."""
        with self.screen.busy("starting Lightning"), memory.importing():
            from pipelines.machine import trainer
        return trainer

    def _trainer(self, advance: Callable[[int], None], *callbacks: Any, **more: Any) -> Any:
        """A Lightning trainer.

        Raises:
            ValueError: Lightning does not know the accelerator or precision, or it is not there.
        """
        lightning = self._lightning()
        try:
            return lightning.trainer(self, advance, *callbacks, **more)
        except Exception as err:  # MisconfigurationException, ValueError, RuntimeError, ...
            raise ValueError(
                f"machine.accelerator={self.accelerator} devices={self.devices} "
                f"precision={self.precision} cannot be used here: {err}. machine=cpu always can"
            ) from err

    def describe(self) -> dict[str, Any]:
        """Processor, accelerator, cores and threads, for the record."""
        return {
            "cpu": _cpu(),
            **_gpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": self.ranks.world,
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "accelerator": self.accelerator,
            "precision": self.precision,
        }


def seed_everything(seed: int) -> None:
    """As Lightning's function of this name: it reads the variables when processes start."""
    os.environ |= {"PL_GLOBAL_SEED": str(seed), "PL_SEED_WORKERS": "0"}
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _gpu() -> dict[str, Any]:
    """The GPU, how many there are, CUDA's version in torch and the driver's; None without one."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    return {
        "gpu": torch.cuda.get_device_name(0),
        "gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    """The version of NVIDIA's driver where its tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.splitlines()[0].strip() if told.stdout else None


def _cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
