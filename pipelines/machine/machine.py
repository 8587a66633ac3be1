"""Devices, precision and threads of a run, and the Lightning trainer for its loops.

Devices and threads change results by rounding errors only, so they are not part of the store's
keys. Half precision changes more, and is.
"""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
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


class PredictModule(Protocol):
    """A module that `Machine.predict` can run."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Run one batch; `batch_idx` is its index."""


@dataclass(frozen=True)
class Machine:
    """Devices, in Lightning's terms.

    Attributes:
        accelerator: "auto", "cpu", "cuda", ...
        devices: number of devices; every device has a process.
        precision: precision of forward and backward passes, one of `PRECISIONS`; Hessians are
            summed and layers are solved in float32 or better.
        threads: CPU threads per process; None for an equal share of all cores.
        screen: progress bars and messages.
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
        """Store key of what results depend on: the precision, empty for full precision."""
        return "" if self.precision == FULL else self.precision

    def setup(self) -> None:
        """Set the number of threads, and try the devices unless they are certain to exist.

        Raises:
            ValueError: the accelerator or precision is unknown or not available.
        """
        memory.keep_freed()
        if self.threads:
            torch.set_num_threads(self.threads)
        elif self.ranks.distributed:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.ranks.world))
        there = self.accelerator in ("cpu", "auto") or on_gpu(self.accelerator)
        if not (there and self.devices == 1 and self.precision == FULL):
            self._trainer(lambda n: None)

    def predict(
        self, name: str, module: PredictModule, loader: DataLoader[Any], shard: bool = True
    ) -> None:
        """Run `module.predict_step` on the batches of `loader`, with a progress bar.

        With several processes, each one gets its share of the batches, or all of them with
        `shard=False`; `batch_idx` counts the batches of all processes.

        Args:
            name: label of the progress bar.
            module: an nn.Module; it is moved to the device.
            loader: loader without shuffling.
            shard: whether to split the batches among the processes.
        """
        loader = self.ranks.shard(loader) if shard else loader
        steps = self._lightning().as_lightning(module)
        with self.screen.bar(name, len(loader)) as advance:
            self._trainer(advance).predict(steps, loader, return_predictions=False)

    def test(self, name: str, module: CollectOutputs, loader: DataLoader[Any]) -> None:
        """Run `module.test_step` on `loader`; `module` gets the outputs of all processes."""
        loader, module.parts = self.ranks.shard(loader), []
        steps = self._lightning().as_lightning(module)
        with self.screen.bar(name, len(loader)) as advance:
            self._trainer(advance).test(steps, loader, verbose=False)
        module.join(self.ranks.in_order(module.parts))

    def fit(self, name: str, module: Any, epochs: int, steps: int, folder: Path) -> None:
        """Train with a checkpoint after each epoch; resume from the last one.

        Args:
            name: label of the progress bar.
            module: LightningModule with its own train dataloader, which is reloaded every epoch.
            epochs: total number of epochs, including those before an interruption.
            steps: total number of steps.
            folder: folder of the checkpoint.
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
        """The module that imports Lightning, which takes seconds: only when a loop runs."""
        if loaded := sys.modules.get("pipelines.machine.trainer"):
            return loaded
        with self.screen.busy("starting Lightning"), memory.importing_late("lightning"):
            from pipelines.machine import trainer
        return trainer

    def _trainer(self, advance: Callable[[int], None], *callbacks: Any, **more: Any) -> Any:
        """A Lightning trainer.

        Raises:
            ValueError: the accelerator or precision is unknown or not available.
        """
        lightning = self._lightning()
        try:
            return lightning.trainer(self, advance, *callbacks, **more)
        except Exception as err:  # MisconfigurationException, ValueError, RuntimeError, ...
            raise ValueError(
                f"machine.accelerator={self.accelerator} devices={self.devices} "
                f"precision={self.precision} is not available here: {err}. machine=cpu always is"
            ) from err

    def describe(self) -> dict[str, Any]:
        """CPU, GPU, cores, threads and memory, for the record."""
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
    """Seed Python, NumPy and torch as Lightning does, without importing it.

    Lightning reads the environment variables when it starts processes.
    """
    os.environ |= {"PL_GLOBAL_SEED": str(seed), "PL_SEED_WORKERS": "0"}
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _gpu() -> dict[str, Any]:
    """Name and number of GPUs, versions of CUDA and the driver; {"gpu": None} without a GPU."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    return {
        "gpu": torch.cuda.get_device_name(0),
        "gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    """Version of the NVIDIA driver, or None."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout else None


def _cpu() -> str:
    """Name of the CPU, or at least its architecture."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
