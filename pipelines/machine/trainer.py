"""The Lightning trainer for a machine.

Importing Lightning takes longer than importing torch: it imports torchmetrics, which imports every
supported library that is installed. This module is therefore imported when the first loop runs; a
run that finds everything in the store does not need it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.disk import storing
from pipelines.machine.machine import HALF, Machine
from pipelines.machine.ranks import on_gpu


def trainer(
    machine: Machine, advance: Callable[[int], None], *callbacks: Callback, **more: Any
) -> Trainer:
    """A trainer without output; it calls `advance(1)` after every batch."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    settings: dict[str, Any] = {"enable_checkpointing": False, **more}
    if machine.ranks.distributed:
        settings |= {
            "strategy": _ShardedStrategy(),
            "plugins": [_StartedExternally(machine.ranks.rank)],
            "use_distributed_sampler": False,
        }
    if machine.precision == HALF:  # by name alone, Lightning would use bfloat16 on a CPU
        plugin = MixedPrecision("16-mixed", "cuda" if on_gpu(machine.accelerator) else "cpu")
        settings["plugins"] = [*settings.get("plugins", ()), plugin]
    else:
        settings["precision"] = machine.precision
    return Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        callbacks=[_Advance(advance), *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def as_lightning(module: nn.Module) -> LightningModule:
    """Wrap a module with `predict_step` or `test_step` for the trainer."""
    wrapped = module if isinstance(module, LightningModule) else _Wrapper(module)
    wrapped.allow_zero_length_dataloader_with_multiple_devices = True
    return wrapped


class _Wrapper(LightningModule):
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.module.predict_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.module.test_step(batch, batch_idx)


class KeepEpochs(CheckpointCallback):
    """Saves a checkpoint after every epoch.

    Lightning's own callback overwrites one file and does not detect corruption.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save on all processes, as Lightning requires; rank 0 renames."""
        with storing(self.checkpoint.folder):
            trainer.save_checkpoint(self.checkpoint.draft)
            if trainer.is_global_zero:
                self.checkpoint.commit()
        trainer.strategy.barrier()


class _Advance(Callback):
    """Moves a progress bar by one batch."""

    def __init__(self, advance: Callable[[int], None]) -> None:
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


class _StartedExternally(LightningEnvironment):
    """Tells Lightning that the processes are already running."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.rank


class _ShardedStrategy(DDPStrategy):
    """DDP with sharded loaders; a training sums its gradients itself."""

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Number the batches over all processes."""
        batch, index = args
        return super().predict_step(batch, index * self.world_size + self.global_rank)

    def configure_ddp(self) -> None:
        """No DDP wrapper: it would average after each of several backward passes of a step."""
