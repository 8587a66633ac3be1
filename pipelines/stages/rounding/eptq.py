"""Stage: decide the rounding of all layers together, guided by the label-free Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.rounding.label_free import output_of
from pipelines.stages.rounding.loss import Task
from pipelines.stages.rounding.schedule import Schedule
from pipelines.stages.rounding.training import RoundingTraining, biases_of
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
    """EPTQ (arXiv 2309.11531), started from any solution; see eptq_loss.py for the loss.

    Attributes:
        init: name of the method whose codes it starts from, for the record.
        scope: "network"; "block" and "layer" stop gradients at every block's or layer's input.
        attention: "sample_layer": every image and layer has its score; "layer": mean over images;
            "none": all count alike.
        activations: how their quantization sets in: "gradual", "qdrop" or "direct".
        kind: of the rounding: "straight" (ours) or "soft" (AdaRound, EPTQ).
        confidence: see quant/rounding.py.
        feature_weight: of the layers' outputs in the loss, beside the divergence of the network's
            own outputs; None: the published loss, without that divergence. Scopes "block" and
            "layer", which never reach the outputs, have the published loss.
        held_out: calibration images that are not trained on; they decide whether it helped.
        schedule: steps and rates.
        seed: of the order of the images.
    """

    TOGETHER: ClassVar[bool] = True

    init: str
    scope: str
    attention: str
    activations: str
    kind: str
    confidence: float
    feature_weight: float | None
    held_out: int
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
                "method.scope=block compares outputs of blocks, which have no scores: "
                "add method.attention=none"
            )
        if not 0 <= self.confidence < 1:
            raise ValueError(f"method.confidence={self.confidence} must lie in [0, 1)")
        if self.held_out < 1:
            raise ValueError(f"method.held_out={self.held_out} must be at least 1")

    def check(self, images: int, processes: int = 1) -> None:
        """Raise a ValueError where so many calibration images leave none to train on.

        So too where several processes cannot share the training.
        """
        step = min(self.schedule.batch_size, images - self.held_out)
        if processes > 1 and 0 < step < processes:
            raise ValueError(
                f"a step trains on {step} images, which {processes} processes cannot share: set "
                "schedule.batch_size higher or machine.devices lower"
            )
        if processes > 1 and self.activations == "qdrop":
            raise ValueError(
                "method.activations=qdrop draws for a whole batch at once, which several processes "
                "would do otherwise than one: take method.activations=gradual, or machine.devices=1"
            )
        if images <= self.held_out:
            raise ValueError(
                f"method.held_out={self.held_out} leaves none of {images} calibration images to "
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
            network: the float one.
            start: the quantized one, with quantizers of activations if any.
            weights: what `start` has, with grids.
            hessian: of `LabelFreeHessian`.
            data: calibration images.
            machine: trains.
            scratch: for checkpoints.
        """
        images = len(data.value.calibration)
        training = min(len(hessian.tensors["attention"]), images - self.held_out)
        quantized = out_of_place(start.value)
        layers = {name: given.layer for name, given in weights.inputs.items()}
        roundings = soften(quantized, network.module, weights, self.kind, self.confidence)
        activations = make_learnable(quantized)
        task = self._task(network, quantized, layers, hessian, data.value, training)
        module = RoundingTraining(task, self.schedule)
        machine.fit("train the rounding", module, module.epochs, self.schedule.steps, scratch)
        module.go_back_to_best()
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
    ) -> Task:
        """Which outputs are compared, how they count, and where gradients stop."""
        outputs = [output_of(layer) for layer in layers.values()]
        order = [hessian.record["layers"].index(name) for name in layers]
        scores = hessian.tensors["attention"][:training, order]
        if self.attention == "layer":
            scores = scores.mean(0, keepdim=True).expand_as(scores)
        elif self.attention == "none":
            scores = torch.ones_like(scores)
        weights = scores.mean(0).tolist()  # of the regulariser, which every layer needs
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
            alone = [layer for name, layer in layers.items() if name not in blocks]
            stop_gradients(quantized, (layer.owner for layer in alone))
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
            held_out=self.held_out,
            seed=self.seed,
        )


@torch.no_grad()
def outputs_of(network: nn.Module, example: Tensor, modules: Sequence[str]) -> set[str]:
    """Those of the modules whose output is an output of the network (or a view of one)."""
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
    """Put a `Rounding` on every quantized weight, in place; by layer, in their order."""
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
