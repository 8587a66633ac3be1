"""Stage: effect of lowering the bits of single layers on the network's outputs, alone and in pairs.

No labels are used. A forward pass with one perturbed layer gives the divergence of that
perturbation and, through its outputs, the couplings of all pairs that it is part of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.task import Batch
from pipelines.machine import clock
from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.machine import Machine
from pipelines.store.artifacts import Artifact, Keyed
from quant import activations
from quant.label_free import flat
from quant.layers import Layer
from quant.mixed.couplings import CouplingSum, curvature
from quant.ranges import TensorGrid

MEMORY = 2**28  # output values, over images and perturbations, to hold at a time
SAVE_EVERY = 60.0  # seconds between checkpoints of the unfinished sums


@dataclass(frozen=True, eq=False)
class Perturbation:
    """One layer at fewer bits.

    Attributes:
        layer: the layer.
        bits: bits of its weights, and of its input if there is a grid.
        weight: the quantized weight, in the shape of the network's parameter.
        mean: new running mean of the BatchNorm behind the layer; None: unchanged.
        grid: grid of the layer's input; None leaves it in floating point.
    """

    layer: Layer
    bits: int
    weight: Tensor
    mean: Tensor | None = None
    grid: TensorGrid | None = None

    def apply(self, module: nn.Module) -> None:
        """Apply the perturbation to `module` for good.

        With a grid, `module` must come from `quant.activations.prepared`.
        """
        weight = module.get_parameter(self.layer.weight)
        weight.data = self.weight.to(weight)
        if self.mean is not None:
            module.get_buffer(self.layer.norm).copy_(self.mean)
        if self.grid is not None:
            activations.set_quantizer(module, activations.input_place(self.layer), self.grid)

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Apply the perturbation to `module` within the context; undo it on exit."""
        weight = module.get_parameter(self.layer.weight)
        old = weight.data
        mean = module.get_buffer(self.layer.norm).clone() if self.mean is not None else None
        try:
            self.apply(module)
            yield
        finally:
            weight.data = old
            if mean is not None:
                module.get_buffer(self.layer.norm).copy_(mean)
            if self.grid is not None:
                activations.set_quantizer(module, activations.input_place(self.layer), None)


@dataclass(frozen=True)
class MeasurePerturbations:
    """Divergence of every perturbation, and couplings of all pairs.

    Attributes:
        images: maximum number of calibration images.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    images: int

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"precision.perturbations.images={self.images} must be at least 1")

    def run(
        self,
        module: Keyed[nn.Module],
        perturbations: Keyed[Sequence[Perturbation]],
        data: Keyed[ImageData],
        machine: Machine,
        *,
        scratch: Path,
    ) -> Artifact:
        """Tensors, for m perturbations: couplings [m, m], divergence [m].

        Record: seconds of the forward passes, and the additional seconds of the couplings.

        Args:
            module: a copy of the float network, from `quant.activations.opened`.
            perturbations: in the order of the rows.
            data: calibration images.
            machine: runs the networks.
            scratch: folder for unfinished sums.
        """
        ranks = machine.ranks
        # no checkpoints with several processes: each one holds only a part of the sums
        checkpoint = None if ranks.distributed else Checkpoint(scratch, "changes")
        collect = CollectPerturbations(data.value, module.value, perturbations.value, checkpoint)
        collect.resume()
        rest = data.value.calibration_loader(start=collect.sums.n, first=self.images)
        if len(rest):
            machine.predict("perturb single layers", collect, rest)
        sums = CouplingSum(len(perturbations.value))
        sums.total, sums.divergence = map(ranks.sum, (collect.sums.total, collect.sums.divergence))
        sums.n = sum(ranks.gather(collect.sums.n))
        seconds = ranks.sum(collect.seconds)
        return Artifact(
            {
                "couplings": sums.couplings(),
                "divergence": sums.alone(),
            },
            {
                "changes": [[p.layer.name, p.bits] for p in perturbations.value],
                "images": sums.n,
                "seconds_forward": float(seconds[0]),
                "seconds_couplings": float(seconds[1]),
            },
        )


class CollectPerturbations(nn.Module):
    """Sums divergences and couplings over images; saves the unfinished sums periodically."""

    def __init__(
        self,
        data: ImageData,
        module: nn.Module,
        perturbations: Sequence[Perturbation],
        checkpoint: Checkpoint | None,
    ) -> None:
        super().__init__()
        self.data, self.network, self.perturbations = data, module, perturbations
        self.sums = CouplingSum(len(perturbations))
        self.seconds = torch.zeros(2, dtype=torch.float64)
        self.checkpoint, self.saved = checkpoint, clock.seconds()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Process one batch, in pieces whose outputs fit into memory."""
        with torch.inference_mode(False):
            x = batch[0].clone()
            with torch.no_grad():
                outputs = flat(self.network(x[:1])).shape[1]
            size = max(1, MEMORY // (outputs * len(self.perturbations)))
            for piece in torch.split(x, size):
                self._add(piece)
        if self.checkpoint is not None and clock.seconds() - self.saved > SAVE_EVERY:
            self.save()

    def _add(self, x: Tensor) -> None:
        begin = clock.seconds()
        differences, divergences = [], []
        with torch.no_grad():
            expected = self.network(x)
            for perturbation in self.perturbations:
                with perturbation.applied_to(self.network):
                    outputs = self.network(x)
                divergences.append(self._divergence(expected, outputs))
                differences.append(flat(outputs) - flat(expected))
        self.seconds[0] += (middle := clock.seconds()) - begin
        product = curvature(self._divergence, expected)
        curved = torch.stack([product(u) for u in differences])
        self.sums.add(torch.stack(differences), curved, torch.stack(divergences))
        self.seconds[1] += clock.seconds() - middle

    def _divergence(self, reference: Any, outputs: Any) -> Tensor:
        return self.data.divergence(self.network, reference, outputs)

    def save(self) -> None:
        """Save the sums atomically."""
        sums = self.sums
        assert self.checkpoint is not None
        self.checkpoint.save(
            {
                "total": sums.total,
                "divergence": sums.divergence,
                "n": torch.tensor(sums.n),
                "seconds": self.seconds,
            }
        )
        self.saved = clock.seconds()

    def resume(self) -> None:
        """Resume from the sums that an interrupted run saved."""
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is not None:
            self.sums.total, self.sums.divergence = state["total"], state["divergence"]
            self.sums.n, self.seconds = int(state["n"]), state["seconds"]
