"""Inputs of one layer as the already quantized layers before it give them.

With X the layer's input in the float network and X~ in the quantized one, minimise |W X - Q X~|^2:

    H = (2/n) X~ X~^T,    W* = W + W (C - H) (H + damping)^-1,    C = (2/n) X X~^T

and quantize W* with H. Without damping W* = W C H^-1, the least squares solution; where X~ = X it
is W. Where a BatchNorm takes the output, both inputs are taken without their means m and m~, and
its running mean moves by Q m~ - W m. The idea is that of GPTAQ (arXiv 2504.02692) and Qronos
(arXiv 2505.11695).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.calibrate import summed
from pipelines.stages.solving.activation_cache import ActivationCache, calls_of
from pipelines.stages.solving.solve import LayerInput
from pipelines.store.artifacts import Artifact, Keyed
from quant.calls import Call
from quant.hessian import HessianSum, centred
from quant.layers import Layer, to_matrix
from quant.problem import LayerProblem


@dataclass(frozen=True)
class SequentialInputs:
    """H and the moved weights W* of one layer.

    Attributes:
        damping: as in the solve that follows.
        positions: of an image that the sums run over; None: all.
    """

    TOGETHER: ClassVar[bool] = True

    damping: float
    positions: int | None

    def run(
        self,
        network: Network,
        quantized: Keyed[nn.Module],
        data: Keyed[ImageData],
        layer: Keyed[Layer],
        waiting: Keyed[ActivationCache],
        machine: Machine,
    ) -> Artifact:
        """Tensors: W* [g, r, c], H [g, c, c]; mean inputs [g, c] "mean" (m~), "float_mean" (m)."""
        loader, name = data.value.fitting_loader(), f"inputs of {layer.value.name}"
        collect = CollectPair(
            network.module,
            quantized.value,
            layer.value,
            self.positions,
            loader.batch_size or 1,
            waiting.value,
        )
        if waiting.value.complete:  # one step, for those that wait
            machine.predict(name, collect, DataLoader([torch.zeros(1)]), share=False)  # type: ignore[arg-type]
        else:
            machine.predict(name, collect, loader)
        if any(machine.ranks.gather(collect.lacks_images)):
            machine.predict(name, collect, loader)
        waiting.value.begun = True
        same, cross = (
            summed(part, layer.value, machine.ranks) for part in (collect.same, collect.cross)
        )
        H, C = same.hessian(), cross.mean()
        m, m_q = cross.input_mean(), same.input_mean()
        if layer.value.norm:
            H = centred(H, m_q)
            C = C - 2 * m[:, :, None] * m_q[:, None, :]
        weight = network.module.get_parameter(layer.value.weight).detach().cpu()
        W = moved(to_matrix(weight, layer.value.groups), H, C, self.damping)
        tensors = {"W": W, "H": H.float(), "mean": m_q.float(), "float_mean": m.float()}
        return Artifact(tensors, {"n": same.n})

    @staticmethod
    def layer_input(given: LayerInput, moved: Artifact) -> LayerInput:
        """The layer as the solve takes it."""
        return replace(
            given,
            problem=lambda: LayerProblem(moved.tensors["W"], moved.tensors["H"]),
            key=f"{given.key}/{moved.key}",
        )


def moved(W: Tensor, H: Tensor, C: Tensor, damping: float) -> Tensor:
    """W* of the module's docstring, in W's precision. W [g, r, c]; H, C [g, c, c]."""
    damped = LayerProblem(W, H).prepared(damping).H.double()
    change: Tensor = torch.linalg.solve(damped, (C - H).double().mT @ W.double().mT)
    return (W.double() + change.mT).to(W.dtype)


class CollectPair(nn.Module):
    """Sums X~ X~^T and X X~^T of one layer, over all its calls in a forward pass.

    The first batch runs to its end. Where the layer was called once, later batches run no further
    than that layer, but for those whose call is of another shape: with text it then has a part of
    the batch only, and others follow. Batches that wait go on from where they are, before the rest.

    Attributes:
        lacks_images: a batch that waited gave up its place, and its images were not there.
    """

    def __init__(
        self,
        network: nn.Module,
        quantized: nn.Module,
        layer: Layer,
        positions: int | None,
        batch_size: int,
        waiting: ActivationCache,
    ) -> None:
        super().__init__()
        self.waiting, self.seen, self.resumed = waiting, set[int](), not waiting.begun
        self.lacks_images = False
        self.network, self.quantized, self.layer = network, quantized, layer
        self.positions, self.batch_size = positions, batch_size
        self.same, self.cross = HessianSum(), HessianSum()
        self.first = True
        # shapes of the first batch, and of the layer's call on it where there was but one
        self.alone: tuple[torch.Size, torch.Size] | None = None

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """One batch through both networks."""
        if not self.resumed and self._resume():
            return
        if batch_idx in self.seen:
            return
        images = batch[0]
        if self.waiting.begin(batch_idx, images):
            self._go_on(batch_idx)
            return
        calls, others = (self._calls(net, images) for net in (self.network, self.quantized))
        if self.first and len(calls) == 1:
            self.alone = images.shape, calls[0].x.shape
        self.first, rows = False, 0
        for call, other in zip(calls, others, strict=True):
            self._add(call, other, batch_idx * self.batch_size + rows % len(images))
            rows += len(call.x)

    def _resume(self) -> bool:
        """Those that wait go on; whether that was all that this step is for."""
        alone, before = self.waiting.complete, list(self.waiting.walks)
        for number in before:
            if number in self.waiting.walks:
                self._go_on(number)
        self.resumed, self.lacks_images = True, alone and not self.seen.issuperset(before)
        return alone

    def _go_on(self, number: int) -> None:
        for call, other in zip(*self.waiting.calls(number, self.layer), strict=True):
            self._add(call, other, number * self.batch_size)
        self.seen.add(number)
        self.waiting.make_room()

    def _add(self, call: Call, other: Call, seed: int) -> None:
        if self.positions is None:
            pieces = [call.pieces(), other.pieces()]
        else:  # the same ones of both
            seeds = range(seed, seed + len(call.x))
            pieces = [c.sampled(self.positions, seeds) for c in (call, other)]
        for X, X_quantized in zip(*pieces, strict=True):
            self.same.add(X_quantized.float())
            self.cross.add(X.float(), X_quantized.float())

    def _calls(self, network: nn.Module, images: Tensor) -> list[Call]:
        def enough(call: Call) -> bool:
            return self.alone == (images.shape, call.x.shape)

        return calls_of(self.layer, network, lambda: network(images), enough)
