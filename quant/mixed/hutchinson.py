"""Trace of a loss's Hessian, tensor by tensor, from products with random signs.

    tr(H_ll) = E_v[v_l^T H_ll v_l],    v of random signs

Signs on one tensor at a time: on all of them together they would cost one product instead of one a
tensor, but every trace would carry the noise of all pairs of tensors, and come out negative where
H is not. Source: Hutchinson 1989; for mixed precision Dong et al., *HAWQ-V2*, arXiv 1911.03852.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quant.label_free import random_signs


def traces(
    loss: Tensor, tensors: Sequence[Tensor], draws: int, generator: torch.Generator
) -> Tensor:
    """Estimated traces [len(tensors)], float64.

    Args:
        loss: a number, twice differentiable in `tensors`.
        tensors: those that gradients reach.
        draws: how many products to average, for each tensor.
        generator: of the signs, on the CPU.

    Raises:
        ValueError: no draws.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    first = torch.autograd.grad(loss, list(tensors), create_graph=True, materialize_grads=True)
    total = torch.zeros(len(tensors), dtype=torch.float64)
    for place, (tensor, gradient) in enumerate(zip(tensors, first, strict=True)):
        for _ in range(draws if gradient.requires_grad else 0):  # else it is linear in the tensor
            v = random_signs(tensor, generator)
            (Hv,) = torch.autograd.grad(
                gradient, tensor, v, retain_graph=True, materialize_grads=True
            )
            total[place] += (v * Hv).sum(dtype=torch.float64).cpu()
    return total / draws
