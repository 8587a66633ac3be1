"""What ranks layers and widths: how much a layer at so many bits is thought to harm the network.

Letters: N layers, B widths. None of them looks at a label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of the layers.

    Attributes:
        couplings: A [N, B, N, B] of couplings.py.
        divergence: from the float network, with one layer changed, [N, B].
        trace: of the Hessian of the divergence in every layer's weight [N]; None: not measured.
        weights: (layer, bits) -> (float weight, quantized weight), layer by layer, width by width.
    """

    couplings: Tensor
    divergence: Tensor
    trace: Tensor | None
    weights: Mapping[tuple[str, int], tuple[Tensor, Tensor]]


def quantization_error(known: Measured) -> Tensor:
    """|W - Q|^2 / |W|^2 of every layer at every width [N, B]."""
    return _over_weights(known, lambda error, W: error.square().sum() / W.square().sum())


def hessian_trace(known: Measured) -> Tensor:
    """Mean of the Hessian's diagonal times |W - Q|^2 [N, B] (HAWQ-V2, arXiv 1911.03852).

    Raises:
        ValueError: the traces were not measured.
    """
    if known.trace is None:
        raise ValueError("hessian_trace needs the traces of the layers' Hessians")
    squares = _over_weights(known, lambda error, W: error.square().sum() / W.numel())
    return squares * known.trace[:, None]


def loss_delta(known: Measured) -> Tensor:
    """The divergence with that one layer changed [N, B]."""
    return known.divergence


def inter_layer(known: Measured) -> Tensor:
    """1/2 sum_j A_ij, all layers at the same width: a layer's part of what they cost together."""
    A = known.couplings
    return torch.stack([A[:, b, :, b].sum(1) / 2 for b in range(A.shape[1])], 1)


def _over_weights(known: Measured, figure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    found = [figure(Q.double() - W.double(), W.double()) for W, Q in known.weights.values()]
    return torch.stack(found).reshape(known.divergence.shape)


METRICS: dict[str, Callable[[Measured], Tensor]] = {
    "inter_layer": inter_layer,
    "loss_delta": loss_delta,
    "hessian_trace": hessian_trace,
    "quantization_error": quantization_error,
}
