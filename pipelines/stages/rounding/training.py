"""Training of the rounding, of biases and of step sizes: one loop for EPTQ, BRECQ and AdaRound."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evaluation.fidelity import Distance
from pipelines.stages.rounding.chunks import Chunk, ParallelChunks, trained
from pipelines.stages.rounding.loss import Task, balance, distances, in_chunks, regulariser
from pipelines.stages.rounding.schedule import Schedule
from quant.label_free import channels_last
from quant.lsq import LearnedQuantize
from quant.rounding import Rounding

Module = TypeVar("Module", bound=nn.Module)
SMALL = 2**21  # numbers of the images that are in memory with all that comes of them, at a time


class RoundingTraining(LightningModule):
    """Trained by `Trainer.fit`; an epoch is a fiftieth of the schedule, and ends with a checkpoint.

    Attributes:
        curve: a row for each epoch: steps done, loss of the last one, and KL of the network with
            everything decided on the held-out images (every fifth epoch, else NaN).
        start: that KL before the first step.
        seconds: of all steps, those before an interruption included.
    """

    curve: Tensor
    start: Tensor
    done: Tensor
    gamma: Tensor
    seconds: Tensor

    def __init__(self, task: Task, schedule: Schedule) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.quantized = task.quantized
        self.schedule = schedule
        self._task = (task,)  # in a tuple: the float network is no part of what is saved
        self.epoch_steps = max(1, schedule.steps // 50)
        self.epochs = math.ceil(schedule.steps / self.epoch_steps)
        self.roundings = of_kind(self.quantized, Rounding)
        self.quantizers = of_kind(self.quantized, LearnedQuantize)
        self._side_by_side = ParallelChunks(task, 1)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))
        self.register_buffer("start", torch.tensor(torch.nan))
        self.register_buffer("curve", torch.full((self.epochs, 3), torch.nan))
        self.register_buffer("gamma", torch.ones(()))
        self.quantized.requires_grad_(False)
        for parameter in chain([r.a for r in self.roundings], *(g["params"] for g in self._tuned)):
            parameter.requires_grad_(True)
        self._mean: dict[str, Tensor] = {}
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> tuple[float, int]:
        """The least KL of the curve, and after how many steps it was; (inf, 0): none yet."""
        judged = [(kl, int(step)) for step, _, kl in self.curve.tolist() if not math.isnan(kl)]
        return min(judged, default=(math.inf, 0))

    @property
    def task(self) -> Task:
        """Networks and images."""
        return self._task[0]

    def train(self, mode: bool = True) -> RoundingTraining:
        """Normalisations and dropout stay as they are in use."""
        super().train(False)
        return self

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, for what is decided and for what is tuned.

        EPTQ decides by RAdam, whose first five steps are as long as the gradient is: on YOLOv5n,
        whose loss is in the thousands, they moved a twentieth of the codes at random.
        """
        first = torch.optim.Adam([r.a for r in self.roundings], lr=self.schedule.rounding_lr)
        tuned = self._tuned
        return [first, torch.optim.Adam(tuned)] if tuned else [first]

    @property
    def _tuned(self) -> list[dict[str, Any]]:
        """Groups of parameters beside those that are decided."""
        s = self.schedule
        groups: list[dict[str, Any]] = [
            {"params": [r.log_scale for r in self.roundings], "lr": s.scale_lr, "cosine": False},
            {"params": list(biases_of(self.quantized).values()), "lr": s.bias_lr, "cosine": False},
            {
                "params": [q.log_scale for q in self.quantizers],
                "lr": s.activation_lr,
                "cosine": True,
            },
        ]
        return [group for group in groups if group["params"] and group["lr"] > 0]

    def train_dataloader(self) -> DataLoader[Any]:
        """The batches of one epoch, this process's share of them; the same whenever it is asked."""
        task, s = self.task, self.schedule
        first = self.trainer.current_epoch * self.epoch_steps
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return task.data.calibration_batches(
            [
                batch_of(step, task.images, s.batch_size, task.seed)[rank::world]
                for step in range(first, min(first + self.epoch_steps, s.steps))
            ]
        )

    def on_fit_start(self) -> None:
        """Lightning moves what it knows of; and where does the training start from?"""
        self.task.reference.to(self.device)
        if self.device.type == "cpu" and self.trainer.precision == "32-true":
            self._side_by_side = ParallelChunks(self.task, self._at_once())
        self._mean = {name: value.to(self.device) for name, value in self._mean.items()}
        if not int(self.done):
            self.start.fill_(self.held_out_kl())
            self.gamma.fill_(balance(self.task, self.schedule, self.device))

    def _at_once(self) -> int:
        """So many chunks side by side as there are threads; of large images no more than two."""
        size, images = (
            self.schedule.micro_batch_size,
            min(self.schedule.batch_size, self.task.images),
        )
        x, _ = next(iter(in_chunks(self.task.data, range(min(size, images)), size)))
        small = max(2, SMALL // x.numel())
        return min(-(-images // size), torch.get_num_threads(), small)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Gradients of all chunks, then one step of every optimiser."""
        begin = time.perf_counter()
        progress = int(self.done) / self.schedule.steps
        self._quantize_activations_at(progress)
        optimizers: Any = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        x, numbers = batch
        total = torch.zeros(())
        undecided = regulariser(self.task, self.roundings, self.schedule, progress)
        if undecided is not None and self.trainer.is_global_zero:  # gradients add up
            self.manual_backward(undecided)
            total = undecided.detach()
        size, images = (
            self.schedule.micro_batch_size,
            min(self.schedule.batch_size, self.task.images),
        )
        chunks = zip(torch.split(x, size), torch.split(numbers.cpu(), size), strict=True)

        def loss(task: Task, chunk: Chunk) -> Tensor:
            outputs, layers = distances(task, *chunk)
            return (outputs + self.gamma * layers) * (len(chunk[0]) / images)

        for found in self._backward(loss, chunks):
            total = total + found
        total = self._add_up(optimizers, total)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group.setdefault("first_lr", group["lr"])
                if group.get("cosine") or self.schedule.decay:
                    group["lr"] = group["first_lr"] * (1 + math.cos(math.pi * progress)) / 2
            optimizer.step()
        self.done += 1
        self._average()
        self.curve[self.trainer.current_epoch, 0] = self.done
        self.curve[self.trainer.current_epoch, 1] = total
        self.seconds += time.perf_counter() - begin

    def _backward(
        self, loss: Callable[[Task, Chunk], Tensor], chunks: Iterable[Chunk]
    ) -> Iterator[Tensor]:
        """Losses of the chunks, whose gradients are added up."""
        if len(self._side_by_side.tasks) > 1:
            yield from self._side_by_side.backward(loss, chunks)
            return
        for chunk in chunks:
            value = loss(self.task, chunk)
            self.manual_backward(value)  # which scales what is in half precision
            yield value.detach()

    def _add_up(self, optimizers: Sequence[torch.optim.Optimizer], total: Tensor) -> Tensor:
        """Sum gradients, in place, and the loss over processes, whose images are one batch."""
        if self.trainer.world_size == 1:
            return total
        groups = chain(*(optimizer.param_groups for optimizer in optimizers))
        parameters = [p for group in groups for p in group["params"]]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [total.to(self.device).reshape(1), *(g.flatten() for g in gradients)]
        found = self.trainer.strategy.reduce(torch.cat(parts).double(), reduce_op="sum")
        assert isinstance(found, Tensor)
        first, *sums = torch.split(found, [len(part) for part in parts])
        for parameter, gradient in zip(parameters, sums, strict=True):
            parameter.grad = gradient.reshape(parameter.shape).to(parameter)
        return first[0].to(total)

    def on_train_epoch_end(self) -> None:
        """How good is the network if everything is decided now?"""
        epoch = self.trainer.current_epoch
        if epoch % 5 == 4 or epoch == self.epochs - 1:
            now = _copied(trained(self.quantized))
            self._put(self._mean)
            self.curve[epoch, 2] = self.held_out_kl()
            if self.best[1] == int(self.done):
                self._best = _copied(trained(self.quantized))
            self._put(now)

    @torch.no_grad()
    def _average(self) -> None:
        """Polyak's averaging: steps go to and fro more than they go on."""
        if not self.schedule.average:
            return
        window = max(1.0, self.schedule.average * self.schedule.steps)
        share = 1 / min(window, float(self.done))
        for name, parameter in trained(self.quantized).items():
            if name in self._mean:
                self._mean[name].lerp_(parameter, share)
            else:
                self._mean[name] = parameter.clone()

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        parameters = trained(self.quantized)
        for name, value in values.items():
            parameters[name].copy_(value)

    def go_back_to_best(self) -> None:
        """The last network need not be the best one on the way."""
        self._put(self._best)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The averaged and the best network on the way, beside the one that is trained."""
        checkpoint["mean"], checkpoint["best"] = self._mean, self._best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See on_save_checkpoint."""
        self._mean, self._best = checkpoint["mean"], checkpoint["best"]

    def held_out_kl(self) -> float:
        """KL of the decided network to the float one on the images that are not trained on."""
        for rounding in self._everywhere(Rounding):
            rounding.hard = True
        for quantizer in self._everywhere(LearnedQuantize):
            quantizer.keep = 0.0
        held_out = range(self.task.images, self.task.images + self.task.held_out)
        batches = in_chunks(self.task.data, held_out, self.schedule.micro_batch_size)

        @torch.no_grad()
        def distance(task: Task, batch: Chunk) -> Distance:
            images = channels_last(batch[0].to(self.device))
            expected, outputs = task.reference(images), task.quantized(images)
            return task.data.distance(task.quantized, expected, outputs)

        found = sum(self._side_by_side.each(distance, batches), Distance())
        for rounding in self._everywhere(Rounding):
            rounding.hard = False
        return found.figures()["kl"]

    def _quantize_activations_at(self, progress: float) -> None:
        """Let the quantization of activations set in."""
        until = self.schedule.gradual
        rest = max(0.0, 1 - progress / until) if until else 0.0
        keep = {"gradual": rest, "qdrop": 0.5, "direct": 0.0}[self.task.activations]
        places = len(self.quantizers)
        for number, quantizer in enumerate(self._everywhere(LearnedQuantize)):
            quantizer.keep, quantizer.drop = keep, self.task.activations == "qdrop"
            seed = self.task.seed * 1_000_003 + int(self.done)
            quantizer.seed = seed * 4099 + number % places

    def _everywhere(self, kind: type[Module]) -> Iterator[Module]:
        """Those of the network that is trained, then those of each of its copies."""
        for task in self._side_by_side.tasks:
            yield from of_kind(task.quantized, kind)


def of_kind(network: nn.Module, kind: type[Module]) -> list[Module]:
    """All modules of a class, in the network's order."""
    return [module for module in network.modules() if isinstance(module, kind)]


def _copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def batch_of(step: int, images: int, size: int, seed: int) -> list[int]:
    """Numbers of the images of one step: a new order for every pass, without replacement."""
    size = min(size, images)
    passes, place = divmod(step, images // size)
    order: list[int] = np.random.default_rng([seed, passes]).permutation(images).tolist()
    return order[place * size : (place + 1) * size]


def biases_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """Every bias, those of normalisations included, by state-dict name."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.rpartition(".")[2] == "bias" and parameter.dim() == 1
    }
