"""Devices, precision and threads of a run, and the Lightning trainer for its loops.

Devices and threads change results by rounding errors only, so they are not part of the store's
keys. Half precision changes more, and is.
"""

from __future__ import annotations

import logging
import os
import subprocess
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from evaluation.evaluator import CollectOutputs
from pipelines.machine import memory
from pipelines.machine.checkpoint import Checkpoint, KeepEpochs
from pipelines.machine.ranks import Ranks, on_gpu
from pipelines.machine.screen import Screen
from pipelines.machine.stopwatch import cpu_name

FULL, HALF = "32-true", "16-mixed"
PRECISIONS = (FULL, "bf16-mixed", HALF)


class _Advance(Callback):
    """Moves a progress bar by one batch."""

    def __init__(self, advance: Any) -> None:
        self.advance = advance

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance after a prediction batch."""
        self.advance(1)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance after a training step."""
        self.advance(1)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance after a test batch."""
        self.advance(1)


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
        """Set the number of threads, silence Lightning's hints, check the devices.

        Raises:
            ValueError: the accelerator or precision is unknown or not available.
        """
        memory.keep_freed()
        if self.threads:
            torch.set_num_threads(self.threads)
        elif self.ranks.distributed:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.ranks.world))
        for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            self._trainer(lambda n: None)
        except Exception as err:  # MisconfigurationException, ValueError, RuntimeError, ...
            raise ValueError(
                f"machine.accelerator={self.accelerator} devices={self.devices} "
                f"precision={self.precision} is not available here: {err}. machine=cpu always is"
            ) from err

    def predict(
        self, name: str, module: LightningModule, loader: DataLoader[Any], shard: bool = True
    ) -> None:
        """Run `module.predict_step` on the batches of `loader`, with a progress bar.

        With several processes, each one gets its share of the batches, or all of them with
        `shard=False`; `batch_idx` counts the batches of all processes.
        """
        loader = self.ranks.shard(loader) if shard else loader
        module.allow_zero_length_dataloader_with_multiple_devices = True
        with self.screen.bar(name, len(loader)) as advance:
            self._trainer(advance).predict(module, loader, return_predictions=False)

    def test(self, name: str, module: CollectOutputs, loader: DataLoader[Any]) -> None:
        """Run `module.test_step` on `loader`; `module` gets the outputs of all processes."""
        loader = self.ranks.shard(loader)
        module.allow_zero_length_dataloader_with_multiple_devices = True
        with self.screen.bar(name, len(loader)) as advance:
            self._trainer(advance).test(module, loader, verbose=False)
        if self.ranks.distributed:
            module.join(self.ranks.in_order(module.parts))

    def fit(
        self, name: str, module: LightningModule, epochs: int, steps: int, folder: Path
    ) -> None:
        """Train with a checkpoint after each epoch; resume from the last one.

        Args:
            name: label of the progress bar.
            module: module with its own train dataloader, which is reloaded for every epoch.
            epochs: total number of epochs, including those before an interruption.
            steps: total number of steps.
            folder: folder of the checkpoint.
        """
        checkpoint = Checkpoint(folder, "training", "ckpt")
        memory.keep_freed(memory.TRAINING)
        try:
            with self.screen.bar(name, steps) as advance:
                self._trainer(
                    advance,
                    KeepEpochs(checkpoint),
                    max_epochs=epochs,
                    reload_dataloaders_every_n_epochs=1,
                    use_distributed_sampler=False,
                    enable_checkpointing=True,
                ).fit(module, ckpt_path=checkpoint.newest(), weights_only=True)
        finally:
            memory.keep_freed()

    def _trainer(self, advance: Any, *callbacks: Callback, **more: Any) -> Trainer:
        settings: dict[str, Any] = {
            "enable_checkpointing": False,
            **self.ranks.trainer_settings(),
            **more,
        }
        if self.precision == HALF:  # by name alone, Lightning would use bfloat16 on a CPU
            plugin = MixedPrecision("16-mixed", "cuda" if on_gpu(self.accelerator) else "cpu")
            settings["plugins"] = [*settings.get("plugins", ()), plugin]
        else:
            settings["precision"] = self.precision
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            callbacks=[_Advance(advance), *callbacks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )

    def describe(self) -> dict[str, Any]:
        """CPU, GPU, cores, threads and memory, for the record."""
        return {
            "cpu": cpu_name(),
            **_gpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": self.ranks.world,
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "accelerator": self.accelerator,
            "precision": self.precision,
        }


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
