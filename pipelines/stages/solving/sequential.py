"""Stage: Hessian and adjusted weights of a layer for inputs from the already quantized layers.

With X the layer's input in the float network and X~ in the quantized one, minimise |W X - Q X~|^2:

    H = (2/n) X~ X~^T,    W* = W + W (C - H) (H + damping)^-1,    C = (2/n) X X~^T

and quantize W* with H. Without damping W* = W C H^-1, the least-squares solution, which is W where
X~ = X. For a layer followed by a BatchNorm, the means m and m~ are subtracted from both inputs and
the BatchNorm's running mean moves by Q m~ - W m. The idea is that of GPTAQ (arXiv 2504.02692) and
Qronos (arXiv 2505.11695).
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
from quant.hessian import HessianSum
from quant.layers import Layer, to_matrix
from quant.problem import LayerProblem


@dataclass(frozen=True)
class SequentialInputs:
    """H and the adjusted weights W* of one layer.

    Attributes:
        damping: damping of the solve that follows.
        positions: positions per image in the sums; None: all.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    damping: float
    positions: int | None

    def run(
        self,
        network: Network,
        quantized: Keyed[nn.Module],
        data: Keyed[ImageData],
        layer: Keyed[Layer],
        cache: Keyed[ActivationCache],
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
            cache.value,
        )
        if cache.value.complete:  # a single step, which resumes all cached batches
            machine.predict(name, collect, DataLoader([torch.zeros(1)]), shard=False)  # type: ignore[arg-type]
        else:
            machine.predict(name, collect, loader)
        if any(machine.ranks.gather(collect.missing_images)):
            machine.predict(name, collect, loader)
        cache.value.filled = True
        same, cross = (
            summed(part, layer.value, machine.ranks) for part in (collect.same, collect.cross)
        )
        m, m_q = cross.input_mean(), same.input_mean()
        if layer.value.norm:
            H, C = same.covariance(), cross.covariance()
        else:
            H, C = same.hessian(), cross.mean()
        weight = network.module.get_parameter(layer.value.weight).detach().cpu()
        W = adjusted_weights(to_matrix(weight, layer.value.groups), H, C, self.damping)
        tensors = {"W": W, "H": H.float(), "mean": m_q, "float_mean": m}
        return Artifact(tensors, {"n": same.n})

    @staticmethod
    def layer_input(original: LayerInput, collected: Artifact) -> LayerInput:
        """The layer's problem with W* and H of `run`, for the solve."""
        return replace(
            original,
            problem=lambda: LayerProblem(collected.tensors["W"], collected.tensors["H"]),
            key=f"{original.key}/{collected.key}",
        )


def adjusted_weights(W: Tensor, H: Tensor, C: Tensor, damping: float) -> Tensor:
    """W* (see the module docstring) in W's dtype. W [g, r, c]; H, C [g, c, c]."""
    damped = LayerProblem(W, H).prepared(damping).H.double()
    change: Tensor = torch.linalg.solve(damped, (C - H).double().mT @ W.double().mT)
    return (W.double() + change.mT).to(W.dtype)


class CollectPair(nn.Module):
    """Sums X~ X~^T and X X~^T of one layer, over all its calls in a forward pass.

    The first batch runs to the end. If it called the layer once, later batches stop at that layer,
    unless the call has another shape: with text, a call may hold a part of the batch only, and more
    calls follow. Cached batches resume where they paused, before all others.

    Attributes:
        missing_images: a cached batch was dropped in a step that has no images to rerun it with.
    """

    def __init__(
        self,
        network: nn.Module,
        quantized: nn.Module,
        layer: Layer,
        positions: int | None,
        batch_size: int,
        cache: ActivationCache,
    ) -> None:
        super().__init__()
        self.cache, self.seen, self.resumed = cache, set[int](), not cache.filled
        self.missing_images = False
        self.network, self.quantized, self.layer = network, quantized, layer
        self.positions, self.batch_size = positions, batch_size
        self.same, self.cross = HessianSum(), HessianSum()
        self.first = True
        # shapes of the first batch and of the layer's call, if there was only one
        self.only_call: tuple[torch.Size, torch.Size] | None = None

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Run one batch through both networks."""
        if not self.resumed and self._resume():
            return
        if batch_idx in self.seen:
            return
        images = batch[0]
        if self.cache.add(batch_idx, images):
            self._add_cached(batch_idx)
            return
        calls, quantized = (self._calls(net, images) for net in (self.network, self.quantized))
        if self.first and len(calls) == 1:
            self.only_call = images.shape, calls[0].x.shape
        self.first, rows = False, 0
        for call, call_quantized in zip(calls, quantized, strict=True):
            self._add(call, call_quantized, batch_idx * self.batch_size + rows % len(images))
            rows += len(call.x)

    def _resume(self) -> bool:
        """Resume the cached batches; returns whether this step has nothing else to do."""
        complete, before = self.cache.complete, list(self.cache.passes)
        for index in before:
            if index in self.cache.passes:
                self._add_cached(index)
        self.resumed, self.missing_images = True, complete and not self.seen.issuperset(before)
        return complete

    def _add_cached(self, index: int) -> None:
        for call, call_quantized in zip(*self.cache.calls(index, self.layer), strict=True):
            self._add(call, call_quantized, index * self.batch_size)
        self.seen.add(index)
        self.cache.evict()

    def _add(self, call: Call, call_quantized: Call, seed: int) -> None:
        if self.positions is None:
            pieces = [call.pieces(), call_quantized.pieces()]
        else:  # the same positions in both networks
            seeds = range(seed, seed + len(call.x))
            pieces = [c.sampled(self.positions, seeds) for c in (call, call_quantized)]
        for X, X_quantized in zip(*pieces, strict=True):
            self.same.add(X_quantized.float())
            self.cross.add(X.float(), X_quantized.float())

    def _calls(self, network: nn.Module, images: Tensor) -> list[Call]:
        def enough(call: Call) -> bool:
            return self.only_call == (images.shape, call.x.shape)

        return calls_of(self.layer, network, lambda: network(images), enough)
