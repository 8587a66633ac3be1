"""Hutchinson's estimate of the Hessian trace, for each tensor, from products with random signs.

    tr(H_ll) = E_v[v_l^T H_ll v_l],    v of random signs

One product per tensor: a single product for all tensors at once would be cheaper, but would add the
noise of all pairs of tensors to every trace and could make it negative even if H is positive
semidefinite. Source: Hutchinson 1989; for mixed precision Dong et al., *HAWQ-V2*, arXiv 1911.03852.
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
        loss: a scalar, twice differentiable in `tensors`.
        tensors: tensors that require gradients.
        draws: number of products to average for each tensor.
        generator: source of the signs, on the CPU.

    Raises:
        ValueError: draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    first = torch.autograd.grad(loss, list(tensors), create_graph=True, materialize_grads=True)
    total = torch.zeros(len(tensors), dtype=torch.float64)
    for index, (tensor, gradient) in enumerate(zip(tensors, first, strict=True)):
        for _ in range(draws if gradient.requires_grad else 0):  # else the loss is linear in it
            v = random_signs(tensor, generator)
            (Hv,) = torch.autograd.grad(
                gradient, tensor, v, retain_graph=True, materialize_grads=True
            )
            total[index] += (v * Hv).sum(dtype=torch.float64).cpu()
    return total / draws
