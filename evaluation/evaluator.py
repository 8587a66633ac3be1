"""Send the evaluation images through a network, keep the logits; top-1 and top-5 from them."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn


class CollectLogits(LightningModule):
    """Logits and labels of the evaluation images, for `Trainer.test`.

    Attributes:
        logits: [n, classes] float32 on the CPU, in the order of the data set; after the test.
        labels: [n] int64 on the CPU.
    """

    logits: Tensor
    labels: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_test_epoch_start(self) -> None:
        self._logits, self._labels = [], []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        x, y = batch
        self._logits.append(self.network(x).detach().float().cpu())
        self._labels.append(y.cpu())

    def on_test_epoch_end(self) -> None:
        """Join the batches of all ranks.

        Raises:
            ValueError: the network gave no [n, classes] logits, or some that are not finite.
        """
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        if self.trainer.world_size > 1:
            logits, labels = self._from_ranks(logits), self._from_ranks(labels)
        if logits.ndim != 2:
            raise ValueError(
                f"the network gives {list(logits.shape[1:])} numbers an image: "
                "a classifier must give one logit per class"
            )
        broken = int((~logits.isfinite()).any(1).sum())
        if broken:
            raise ValueError(
                f"the network's logits are not finite for {broken} of {len(logits)} images: look "
                "at the weights, or at precision=16 overflowing (use 32 or bf16)"
            )
        self.logits, self.labels = logits, labels
        self._logits, self._labels = [], []

    def _from_ranks(self, part: Tensor) -> Tensor:
        """Undo the sampler: rank r of R had images r, r + R, ..., padded at the end."""
        gathered: Any = self.all_gather(part)  # [R, m, ...]
        loader: Any = self.trainer.test_dataloaders
        return torch.as_tensor(gathered).cpu().transpose(0, 1).flatten(0, 1)[: len(loader.dataset)]


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent of images whose label is the first, or among the first five, by logit.

    Args:
        logits: [n, classes].
        labels: [n], 0 .. classes - 1.

    Returns:
        top1, and top5 if there are more than five classes.

    Raises:
        ValueError: the shapes do not fit, or a label is no class of the network.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits are {list(logits.shape)} and labels {list(labels.shape)}: "
            "they must be [n, classes] and [n], n > 0"
        )
    classes = logits.shape[1]
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels lie in {int(labels.min())}..{int(labels.max())} but the network has "
            f"{classes} classes: is it a network for this data set?"
        )
    result = {"top1": 100 * correct(logits, labels).double().mean().item()}
    if classes > 5:
        hit = (logits.topk(5).indices == labels[:, None]).any(1)
        result["top5"] = 100 * hit.double().mean().item()
    return result


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """[n] bool: is the label's logit the largest?"""
    return logits.argmax(1) == labels
