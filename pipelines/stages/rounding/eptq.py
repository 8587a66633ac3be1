"""Stage: train the rounding of all layers together, weighted by the label-free Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluation.images import ImageData
from evaluation.split import spared
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.rounding.label_free import output_of
from pipelines.stages.rounding.loss import Task
from pipelines.stages.rounding.schedule import Schedule
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.solve import grid_of
from pipelines.store.artifacts import Artifact, Keyed
from quant.blocks import blocks_of, stop_gradients
from quant.label_free import out_of_place, tapped, tensors_of
from quant.layers import Layer, to_matrix
from quant.lsq import make_learnable
from quant.packing import pack, unpack
from quant.rounding import KINDS, Rounding

SCOPES = ("network", "block", "layer")
ATTENTIONS = ("sample_layer", "layer", "none")
ACTIVATIONS = ("gradual", "qdrop", "direct")


@dataclass(frozen=True)
class TrainRounding:
    """EPTQ (arXiv 2309.11531), started from any solution; loss.py describes the loss.

    Attributes:
        init: name of the method that computed the initial codes, for the record.
        scope: "network"; "block" and "layer" stop gradients at every block's or layer's input.
        attention: weights of the layers' outputs: "sample_layer": a score per image and layer;
            "layer": its mean over images; "none": all equal.
        activations: how activation quantization sets in: "gradual", "qdrop" or "direct".
        kind: kind of rounding variable: "straight" (ours) or "soft" (AdaRound, EPTQ).
        confidence: see quant/rounding.py.
        feature_weight: weight of the layers' outputs in the loss, in addition to the divergence of
            the network's outputs; None: the published loss, without that divergence. The scopes
            "block" and "layer" always use the published loss: their gradients never come from
            the network's outputs.
        held_out: number of calibration images that are not trained on; they decide whether the
            result is kept. None: `max_held_out`, but at most half of the calibration images.
        max_held_out: limit on those.
        schedule: steps and learning rates.
        seed: seed for the order of the images.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    init: str
    scope: str
    attention: str
    activations: str
    kind: str
    confidence: float
    feature_weight: float | None
    held_out: int | None
    max_held_out: int
    schedule: Schedule
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in (
            ("scope", SCOPES),
            ("attention", ATTENTIONS),
            ("activations", ACTIVATIONS),
            ("kind", tuple(KINDS)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"method.{name}={getattr(self, name)} must be one of {', '.join(allowed)}"
                )
        if self.scope == "block" and self.attention != "none":
            raise ValueError(
                "method.scope=block compares the outputs of blocks, which have no attention "
                "scores: set method.attention=none"
            )
        if not 0 <= self.confidence < 1:
            raise ValueError(f"method.confidence={self.confidence} must lie in [0, 1)")
        for name in ("held_out", "max_held_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"method.{name}={value} must be at least 1")

    def fitted(self, images: int) -> TrainRounding:
        """The same, with the number of those that are held out of so many images."""
        held_out = self.held_out_of(images)
        return replace(self, held_out=held_out, max_held_out=held_out)

    def held_out_of(self, images: int) -> int:
        """How many of so many calibration images are not trained on."""
        found = max(1, spared(images, self.max_held_out))
        return found if self.held_out is None else self.held_out

    def check(self, images: int, processes: int = 1) -> None:
        """Check that `images` calibration images and `processes` processes suit the training.

        Raises:
            ValueError: no image is left to train on, or the processes cannot share the steps.
        """
        held_out = self.held_out_of(images)
        step = min(self.schedule.batch_size, images - held_out)
        if processes > 1 and 0 < step < processes:
            raise ValueError(
                f"a step trains on {step} images, which {processes} processes cannot share: set "
                "schedule.batch_size higher or machine.devices lower"
            )
        if processes > 1 and self.activations == "qdrop":
            raise ValueError(
                "method.activations=qdrop draws random numbers for a whole batch, so its result "
                "would depend on the number of processes: set method.activations=gradual or "
                "machine.devices=1"
            )
        if images <= held_out:
            raise ValueError(
                f"method.held_out={held_out} leaves none of {images} calibration images to "
                "train on: set calibrate.images higher or method.held_out lower"
            )

    def run(
        self,
        network: Network,
        start: Keyed[nn.Module],
        weights: QuantizedWeights,
        hessian: Artifact,
        data: Keyed[ImageData],
        machine: Machine,
        *,
        scratch: Path,
    ) -> Artifact:
        """Tensors: codes, scale, zero, loss by layer; scales by place; biases. Record: the curve.

        Args:
            network: the float network.
            start: the quantized network, with activation quantizers if there are any.
            weights: the solutions that `start` was built from.
            hessian: result of `LabelFreeHessian`.
            data: calibration images.
            machine: runs the training.
            scratch: folder for checkpoints.
        """
        from pipelines.stages.rounding.training import RoundingTraining, biases_of

        images = len(data.value.calibration)
        held_out = self.held_out_of(images)
        training = min(len(hessian.tensors["attention"]), images - held_out)
        quantized = out_of_place(start.value)
        layers = {name: x.layer for name, x in weights.inputs.items()}
        roundings = soften(quantized, network.module, weights, self.kind, self.confidence)
        activations = make_learnable(quantized)
        task = self._task(network, quantized, layers, hessian, data.value, training, held_out)
        module = RoundingTraining(task, self.schedule)
        machine.fit("train the rounding", module, module.epochs, self.schedule.steps, scratch)
        module.restore_best()
        module.cpu()
        tensors: dict[str, Tensor] = {}
        flipped = total = 0
        for name, rounding in roundings.items():
            before, problem = weights.solutions[name], weights.inputs[name].problem()
            codes, grid = rounding.codes(), rounding.grid()
            old = unpack(before.tensors["codes"], grid.bits, tuple(before.record["shape"]))
            flipped, total = flipped + int((old != codes).sum()), total + codes.numel()
            tensors |= {
                f"{name}/codes": pack(codes, grid.bits),
                f"{name}/scale": grid.scale.detach(),
                f"{name}/zero": before.tensors["zero"],
                f"{name}/loss": problem.loss(grid.decode(codes).detach()),
            }
        for place, quantizer in activations.items():
            tensors[f"activation/{place.name}"] = quantizer.grid().scale
        tensors |= {f"bias/{n}": p.detach() for n, p in biases_of(quantized).items()}
        curve = [[None if math.isnan(v) else v for v in row] for row in module.curve.tolist()]
        best, step = module.best
        return Artifact(
            tensors,
            {
                "init": self.init,
                "scope": self.scope,
                "attention": self.attention,
                "activations": self.activations,
                "kind": self.kind,
                "features": self.feature_weight,
                "steps": self.schedule.steps,
                "curve": curve,
                "kl_before": float(module.start),
                "kl_after": best,
                "best_step": step,
                "kept": best < float(module.start),
                "flipped": flipped / total,
                "images": training,
                "seconds": float(module.seconds),
            },
        )

    def _task(
        self,
        network: Network,
        quantized: nn.Module,
        layers: Mapping[str, Layer],
        hessian: Artifact,
        data: ImageData,
        training: int,
        held_out: int,
    ) -> Task:
        """Choose the outputs to compare and their weights; stop gradients as `scope` says."""
        outputs = [output_of(layer) for layer in layers.values()]
        order = [hessian.record["layers"].index(name) for name in layers]
        scores = hessian.tensors["attention"][:training, order]
        if self.attention == "layer":
            scores = scores.mean(0, keepdim=True).expand_as(scores)
        elif self.attention == "none":
            scores = torch.ones_like(scores)
        weights = scores.mean(0).tolist()  # for the regulariser, which every layer needs
        taps, features = outputs, self.feature_weight if self.scope == "network" else None
        if features is not None:
            example, _ = next(iter(data.calibration_loader(first=1)))
            ends = outputs_of(network.module, example, taps)
            scores = scores * torch.tensor([0.0 if tap in ends else 1.0 for tap in taps])
        if self.scope == "block":
            blocks = blocks_of(network.module, layers)
            named = zip(layers, outputs, strict=True)
            taps = list(dict.fromkeys(blocks.get(name, output) for name, output in named))
            scores = torch.ones(training, len(taps))
            stop_gradients(quantized, blocks.values())
            outside = [layer for name, layer in layers.items() if name not in blocks]
            stop_gradients(quantized, (layer.owner for layer in outside))
        elif self.scope == "layer":
            stop_gradients(quantized, (layer.owner for layer in layers.values()))
        return Task(
            reference=out_of_place(network.module),
            quantized=quantized,
            data=data,
            taps=taps,
            scores=scores,
            weights=weights,
            activations=self.activations,
            feature_weight=features,
            images=training,
            held_out=held_out,
            seed=self.seed,
        )


@torch.no_grad()
def outputs_of(network: nn.Module, example: Tensor, modules: Sequence[str]) -> set[str]:
    """Names of the modules whose output is an output of the network, or a view of one."""
    with tapped(network, modules) as seen:
        outputs = network(example)
    memory = {part.untyped_storage().data_ptr() for part in tensors_of(outputs)}
    return {name for name, tensor in seen.items() if tensor.untyped_storage().data_ptr() in memory}


def soften(
    quantized: nn.Module,
    reference: nn.Module,
    weights: QuantizedWeights,
    kind: str,
    confidence: float,
) -> dict[str, Rounding]:
    """Put a `Rounding` on every quantized weight, in place; returns them by layer, in order."""
    roundings = {}
    for name, solution in weights.solutions.items():
        layer = weights.inputs[name].layer
        W = to_matrix(reference.get_parameter(layer.weight).detach(), layer.groups).float()
        shape = tuple(solution.record["shape"])
        codes = unpack(solution.tensors["codes"], solution.record["bits"], shape).float()
        rounding = KINDS[kind](W, codes, grid_of(solution), layer.shape, confidence)
        owner = quantized.get_submodule(layer.owner)
        attribute = layer.weight.rpartition(".")[2]
        parametrize.register_parametrization(owner, attribute, rounding, unsafe=True)
        roundings[name] = rounding
    return roundings
