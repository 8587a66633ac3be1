"""Sensitivity metrics: estimated harm to the network from quantizing one layer at one bit width.

Letters: N layers, B bit widths. No metric needs labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerMeasurements:
    """Measurements of all layers, from which the metrics are computed.

    Attributes:
        couplings: A [N, B, N, B], see couplings.py.
        divergence: divergence from the float network with one layer quantized [N, B].
        trace: trace of the divergence's Hessian with respect to each layer's weight [N]; None if
            not measured.
        weights: {(layer, bits): (float weight, quantized weight)}, layers first, widths ascending.
    """

    couplings: Tensor
    divergence: Tensor
    trace: Tensor | None
    weights: Mapping[tuple[str, int], tuple[Tensor, Tensor]]


def quantization_error(measured: LayerMeasurements) -> Tensor:
    """|W - Q|^2 / |W|^2 of each layer at each width [N, B]."""
    return _over_weights(measured, lambda error, W: error.square().sum() / W.square().sum())


def hessian_trace(measured: LayerMeasurements) -> Tensor:
    """Mean of the Hessian's diagonal times |W - Q|^2 [N, B] (HAWQ-V2, arXiv 1911.03852).

    Raises:
        ValueError: the traces were not measured.
    """
    if measured.trace is None:
        raise ValueError("hessian_trace needs the traces of the layers' Hessians")
    squares = _over_weights(measured, lambda error, W: error.square().sum() / W.numel())
    return squares * measured.trace[:, None]


def loss_delta(measured: LayerMeasurements) -> Tensor:
    """The divergence with only that layer quantized [N, B]."""
    return measured.divergence


def inter_layer(measured: LayerMeasurements) -> Tensor:
    """1/2 sum_j A_ij [N, B]: a layer's share of the loss if all layers have the same width."""
    A = measured.couplings
    return torch.stack([A[:, b, :, b].sum(1) / 2 for b in range(A.shape[1])], 1)


def _over_weights(
    measured: LayerMeasurements, figure: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    figures = [figure(Q.double() - W.double(), W.double()) for W, Q in measured.weights.values()]
    return torch.stack(figures).reshape(measured.divergence.shape)


METRICS: dict[str, Callable[[LayerMeasurements], Tensor]] = {
    "inter_layer": inter_layer,
    "loss_delta": loss_delta,
    "hessian_trace": hessian_trace,
    "quantization_error": quantization_error,
}
