"""Trace of a loss's Hessian, tensor by tensor, from products with random signs.

    tr(H_ll) = E_v[v_l^T H_ll v_l],    v of random signs

One tensor's signs at a time would cost a product each; signs on all of them together give the same
expectation, as those of different tensors are independent. Source: Hutchinson 1989; for mixed
precision Dong et al., *HAWQ-V2*, arXiv 1911.03852.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def traces(
    loss: Tensor, tensors: Sequence[Tensor], draws: int, generator: torch.Generator
) -> Tensor:
    """Estimated traces [len(tensors)], float64.

    Args:
        loss: a number, twice differentiable in `tensors`.
        tensors: those that gradients reach.
        draws: how many products to average.
        generator: of the signs, on the CPU.

    Raises:
        ValueError: no draws.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    first = torch.autograd.grad(loss, list(tensors), create_graph=True, materialize_grads=True)
    curved = [place for place, gradient in enumerate(first) if gradient.requires_grad]
    total = torch.zeros(len(tensors), dtype=torch.float64)
    for _ in range(draws):
        signs = [
            (torch.randint(0, 2, t.shape, generator=generator, dtype=torch.int8) * 2 - 1).to(t)
            for t in tensors
        ]
        found = torch.autograd.grad(
            [first[place] for place in curved],
            list(tensors),
            [signs[place] for place in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        for place, (v, Hv) in enumerate(zip(signs, found, strict=True)):
            total[place] += (v * Hv).sum(dtype=torch.float64).cpu()
    return total / draws
