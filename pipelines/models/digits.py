"""A small BatchNorm network for scikit-learn's 8x8 digits, trained in seconds and cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluation import digits
from pipelines.machine import memory
from pipelines.models.network import Network, validated
from pipelines.models.state_dict import load_into
from pipelines.store.artifacts import Artifact
from pipelines.store.store import Store

NAME = "digits"


class DigitsNet(nn.Module):
    """Five convolutions (the second depthwise, the fourth strided) and a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn_relu(1, 16, 3)
        self.depthwise = _conv_bn_relu(16, 16, 3, groups=16)
        self.pointwise = _conv_bn_relu(16, 32, 1)
        self.down = _conv_bn_relu(32, 48, 3, stride=2)
        self.last = _conv_bn_relu(48, 64, 3)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, 8, 8], with equal channels, as the digits are grey -> logits [b, 10]."""
        x = self.pointwise(self.depthwise(self.stem(x[:, :1])))
        logits: Tensor = self.classifier(self.last(self.down(x)).mean((2, 3)))
        return logits


def _conv_bn_relu(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


@dataclass(frozen=True)
class TrainDigits:
    """Stage: train DigitsNet on the digits' training pool, without any evaluation image.

    AdamW with a one-cycle learning rate (Smith and Topin, arXiv:1708.07120), on the CPU.

    Attributes:
        epochs: passes over the pool.
        batch_size: images per step.
        learning_rate: peak of the cycle.
        weight_decay: weight decay of AdamW.
        seed: seed for the initial weights and the order of the images.
        data_config: preprocessing of the images, see `Network`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    data_config: dict[str, Any]

    def __post_init__(self) -> None:
        for setting in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, setting) > 0:
                raise ValueError(f"model.train.{setting}={getattr(self, setting)} must be positive")

    def run(self) -> Artifact:
        """The trained state dict and the last epoch's loss. The global RNG state is preserved."""
        with memory.importing_late("lightning"):
            from timm.data import create_transform

            from pipelines.models.digits_training import train

        pool, _ = digits.split()
        transform = create_transform(**self.data_config, is_training=False)
        x = torch.stack([transform(pool.decode(pool.blob(name))) for name in pool.ids])
        network, loss = train(self, x, torch.tensor(pool.labels))
        return Artifact(
            tensors=network.state_dict(),
            record={"images": len(pool), "epochs": self.epochs, "train_loss": loss},
        )


@dataclass(frozen=True)
class DigitsModel:
    """The trained network, from the store if it was trained before."""

    train: TrainDigits

    def check(self) -> None:
        """Raise if data_config is invalid."""
        validated(self.train.data_config, NAME)

    def load(self, store: Store) -> Network:
        """Train, or load the weights of an earlier training with the same settings and code."""
        trained = store.run(self.train)
        with torch.random.fork_rng(devices=[]):  # the random initial weights are replaced
            module = DigitsNet()
        load_into(module, trained.tensors, "the cached digits network")
        return Network.of(module, NAME, self.train.data_config)
