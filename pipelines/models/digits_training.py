"""Training of the digits network, with Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pipelines.models.digits import DigitsNet, TrainDigits


def train(settings: TrainDigits, images: Tensor, labels: Tensor) -> tuple[DigitsNet, float]:
    """The trained network and the last epoch's loss. The global RNG state is preserved.

    Args:
        settings: hyperparameters of the training.
        images: network inputs [n, 3, 8, 8].
        labels: digits [n].
    """
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(settings.seed)
        loader = DataLoader(
            TensorDataset(images, labels),
            batch_size=settings.batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(settings.seed),
        )
        training = _Training(settings.learning_rate, settings.weight_decay)
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(training, loader)
    return training.network, float(trainer.callback_metrics["loss"])


class _Training(lightning.LightningModule):
    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        super().__init__()
        self.network = DigitsNet()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            self.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's hints on devices and loader workers: users cannot act on them."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
