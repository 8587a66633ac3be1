"""Stage: label-free Hessians of layer outputs (one score per image) and of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.task import Batch
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.store.artifacts import Artifact, Keyed
from quant.label_free import attention, channels_last, diagonals, flat, out_of_place, tapped
from quant.layers import Layer, to_matrix


@dataclass(frozen=True)
class LabelFreeHessian:
    """Estimates on the float network; the Hessians' memory does not grow with the images.

    Attributes:
        images: number of calibration images, the first ones; None: all.
        draws: maximum number of random sign vectors per image; networks with at most as many
            outputs get the exact result.
        tolerance: stop drawing when the relative change of the mean is smaller.
        seed: seed for the sign vectors.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    images: int | None
    draws: int
    tolerance: float
    seed: int

    def __post_init__(self) -> None:
        if (self.images is not None and self.images < 1) or self.draws < 1:
            raise ValueError(
                f"label_free.images={self.images} and label_free.draws={self.draws} must be at "
                "least 1"
            )

    def fitted(self, images: int) -> LabelFreeHessian:
        """The same, where there are so many calibration images."""
        return replace(self, images=images if self.images is None else self.images)

    def run(
        self,
        network: Network,
        layers: Keyed[Mapping[str, Layer]],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: "attention" [images, layers]; "importance/<layer>" [g, r, c], mean over images.

        Record: names of the layers, in column order.
        """
        loader = data.value.calibration_loader(first=self.images)
        collect = CollectDiagonals(out_of_place(network.module), layers.value, self)
        machine.predict("label-free Hessian", collect, loader)
        scores = torch.cat(machine.ranks.in_order(collect.scores))
        tensors = {"attention": scores}
        for name, layer in layers.value.items():
            mean = machine.ranks.sum(collect.weights[name]) / len(scores)
            tensors[f"importance/{name}"] = to_matrix(mean.float().cpu(), layer.groups)
        return Artifact(tensors, {"layers": list(layers.value)})


def output_of(layer: Layer) -> str:
    """The module whose output counts as the layer's: the BatchNorm behind it, else its owner."""
    return layer.norm.rpartition(".")[0] or layer.owner


class CollectDiagonals(nn.Module):
    """Sums the weights' Hessian diagonals over images; keeps every image's scores."""

    def __init__(
        self, network: nn.Module, layers: Mapping[str, Layer], settings: LabelFreeHessian
    ) -> None:
        super().__init__()
        self.network, self.layers, self.settings = network, layers, settings
        self.scores: list[Tensor] = []
        self.weights = {
            name: torch.zeros(layer.shape, dtype=torch.float64) for name, layer in layers.items()
        }

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Process one batch with gradients, despite Lightning's inference mode."""
        with torch.inference_mode(False), torch.enable_grad():
            self._step(channels_last(batch[0].clone()), batch_idx)

    def _step(self, x: Tensor, batch_idx: int) -> None:
        network, layers = self.network, self.layers
        taps = {name: output_of(layer) for name, layer in layers.items()}
        weights = {f"w/{n}": network.get_parameter(x.weight) for n, x in layers.items()}
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + batch_idx)
        with tapped(network, list(taps.values())) as seen:
            f = flat(network(x))
        outputs = {name: seen[module] for name, module in taps.items() if module in seen}
        diagonal = diagonals(
            f, {**outputs, **weights}, self.settings.draws, generator, self.settings.tolerance
        )
        ones = torch.ones(len(x), device=x.device)
        rows = [attention(diagonal[name]) if name in outputs else ones for name in layers]
        self.scores.append(torch.stack(rows, 1).cpu())
        for name in layers:
            self.weights[name] = self.weights[name].to(x.device) + diagonal[f"w/{name}"].detach()
