"""Lightning's trainer, as the loops of a run need it.

Importing Lightning takes longer than importing torch, because it imports torchmetrics and that
whatever is installed. So this file is imported when the first loop runs, and not by a run that
finds everything in the store.
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
    """A quiet one that tells `advance` of every batch."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    settings: dict[str, Any] = {"enable_checkpointing": False, **more}
    if machine.ranks.several:
        settings |= {
            "strategy": _Sharing(),
            "plugins": [_Started(machine.ranks.rank)],
            "use_distributed_sampler": False,
        }
    if machine.precision == HALF:  # by its name alone Lightning would take bfloat16 on a processor
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


def steps_of(module: nn.Module) -> LightningModule:
    """A module with `predict_step` or `test_step`, as the trainer takes it."""
    steps = module if isinstance(module, LightningModule) else _Steps(module)
    steps.allow_zero_length_dataloader_with_multiple_devices = True
    return steps


class _Steps(LightningModule):
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.module.predict_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.module.test_step(batch, batch_idx)


class KeepEpochs(CheckpointCallback):
    """Saves a training after every epoch.

    Lightning's own callback overwrites one file and finds no flipped bit in it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        """All processes save, the first one renames."""
        with storing(self.checkpoint.folder):
            trainer.save_checkpoint(self.checkpoint.draft)
            if trainer.is_global_zero:
                self.checkpoint.keep()
        trainer.strategy.barrier()


class _Advance(Callback):
    """Moves a progress bar by one batch."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One calibration batch is through."""
        self.advance(1)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One step of a training is done."""
        self.advance(1)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One evaluation batch is through."""
        self.advance(1)


class _Started(LightningEnvironment):
    """The processes are there already."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.rank


class _Sharing(DDPStrategy):
    """Lightning's, where each process has its own batches and a training adds its gradients up."""

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """A batch has the number that it has among those of all processes."""
        batch, number = args
        return super().predict_step(batch, number * self.world_size + self.global_rank)

    def configure_ddp(self) -> None:
        """No wrapper: it would average after each of several backward passes of a step."""
