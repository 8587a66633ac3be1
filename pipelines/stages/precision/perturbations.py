"""Stage: what lowering the bits of single layers does to the network, alone and in pairs.

No label is looked at. Every forward pass with one layer changed serves the divergence of that
change, and through its outputs all pairs that it is part of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.task import Batch
from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.machine import Machine
from pipelines.store.artifacts import Artifact, Keyed
from quant import activations
from quant.label_free import flat
from quant.layers import Layer
from quant.mixed.couplings import CouplingSum, curvature
from quant.ranges import TensorGrid

MEMORY = 2**28  # numbers that the changes of some images may take
SAVE_EVERY = 60.0  # seconds between two savings of unfinished sums


@dataclass(frozen=True, eq=False)
class Perturbation:
    """One layer at fewer bits.

    Attributes:
        layer: which one.
        bits: of its weights, and of its inputs where there is a grid for them.
        weight: the quantized weight, in the shape that the network has it in.
        mean: the running mean of the BatchNorm behind it, if that moves.
        grid: of its inputs; None leaves them in floating point.
    """

    layer: Layer
    bits: int
    weight: Tensor
    mean: Tensor | None = None
    grid: TensorGrid | None = None

    def make(self, module: nn.Module) -> None:
        """Change `module` for good; where there is a grid, it is `activations.prepared` for it."""
        weight = module.get_parameter(self.layer.weight)
        weight.data = self.weight.to(weight)
        if self.mean is not None:
            module.get_buffer(self.layer.norm).copy_(self.mean)
        if self.grid is not None:
            activations.set_quantizer(module, activations.input_place(self.layer), self.grid)

    @contextmanager
    def made_in(self, module: nn.Module) -> Iterator[None]:
        """While active, `module` has this change; no trace of it is left."""
        weight = module.get_parameter(self.layer.weight)
        old = weight.data
        mean = module.get_buffer(self.layer.norm).clone() if self.mean is not None else None
        try:
            self.make(module)
            yield
        finally:
            weight.data = old
            if mean is not None:
                module.get_buffer(self.layer.norm).copy_(mean)
            if self.grid is not None:
                activations.set_quantizer(module, activations.input_place(self.layer), None)


@dataclass(frozen=True)
class MeasurePerturbations:
    """Divergence of every change, and couplings of all pairs.

    Attributes:
        images: calibration images to look at, at most.
    """

    TOGETHER: ClassVar[bool] = True

    images: int

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"precision.perturbations.images={self.images} must be at least 1")

    def run(
        self,
        module: Keyed[nn.Module],
        changes: Keyed[Sequence[Perturbation]],
        data: Keyed[ImageData],
        machine: Machine,
        *,
        scratch: Path,
    ) -> Artifact:
        """Tensors, of m changes: couplings [m, m], divergence [m].

        Args:
            module: a copy of the float network that is open to the changes.
            changes: in the order of the rows.
            data: calibration images.
            machine: runs the networks.
            scratch: for unfinished sums.

        Record: seconds of the forward passes and of what the couplings add to them.
        """
        ranks = machine.ranks  # with several, unfinished sums would be parts of the sums
        kept = None if ranks.several else Checkpoint(scratch, "changes")
        collect = CollectPerturbations(data.value, module.value, changes.value, kept)
        collect.resume()
        rest = data.value.calibration_loader(start=collect.sums.n, first=self.images)
        if len(rest):
            machine.predict("layers at fewer bits, one by one", collect, rest)
        sums = CouplingSum(len(changes.value))
        sums.total, sums.divergence = map(ranks.sum, (collect.sums.total, collect.sums.divergence))
        sums.n = sum(ranks.gather(collect.sums.n))
        seconds = ranks.sum(collect.seconds)
        return Artifact(
            {
                "couplings": sums.couplings(),
                "divergence": sums.alone(),
            },
            {
                "changes": [[change.layer.name, change.bits] for change in changes.value],
                "images": sums.n,
                "seconds_forward": float(seconds[0]),
                "seconds_couplings": float(seconds[1]),
            },
        )


class CollectPerturbations(LightningModule):
    """Sums over images; saves them now and then."""

    def __init__(
        self,
        data: ImageData,
        module: nn.Module,
        changes: Sequence[Perturbation],
        unfinished: Checkpoint | None,
    ) -> None:
        super().__init__()
        self.data, self.network, self.changes = data, module, changes
        self.sums = CouplingSum(len(changes))
        self.seconds = torch.zeros(2, dtype=torch.float64)
        self.unfinished, self.saved = unfinished, time.monotonic()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch, in pieces whose changes fit into memory."""
        with torch.inference_mode(False):
            x = batch[0].clone()
            with torch.no_grad():
                numbers = flat(self.network(x[:1])).shape[1]
            size = max(1, MEMORY // (numbers * len(self.changes)))
            for piece in torch.split(x, size):
                self._add(piece)
        if self.unfinished is not None and time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def _add(self, x: Tensor) -> None:
        begin = time.perf_counter()
        moved, divergences = [], []
        with torch.no_grad():
            expected = self.network(x)
            for change in self.changes:
                with change.made_in(self.network):
                    outputs = self.network(x)
                divergences.append(self._divergence(expected, outputs))
                moved.append(flat(outputs) - flat(expected))
        self.seconds[0] += (middle := time.perf_counter()) - begin
        product = curvature(self._divergence, expected)
        curved = torch.stack([product(u) for u in moved])
        self.sums.add(torch.stack(moved), curved, torch.stack(divergences))
        self.seconds[1] += time.perf_counter() - middle

    def _divergence(self, reference: Any, outputs: Any) -> Tensor:
        return self.data.divergence(self.network, reference, outputs)

    def save(self) -> None:
        """Write the sums, all or nothing."""
        sums = self.sums
        assert self.unfinished is not None
        self.unfinished.save(
            {
                "total": sums.total,
                "divergence": sums.divergence,
                "n": torch.tensor(sums.n),
                "seconds": self.seconds,
            }
        )
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Go on from sums that an earlier, interrupted run saved."""
        state = self.unfinished.load() if self.unfinished is not None else None
        if state is not None:
            self.sums.total, self.sums.divergence = state["total"], state["divergence"]
            self.sums.n, self.seconds = int(state["n"]), state["seconds"]
