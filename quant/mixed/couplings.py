"""How changes of several layers add up: all pairs from one forward pass for each change.

With u_i(x) the change of the network's outputs for image x when change i alone is made, and F(x)
the Hessian of the task's divergence in the outputs, at the float network's,

    A_ij = mean_x u_i(x)^T F(x) u_j(x)

is the Gauss-Newton estimate of the pair's part of the loss: 1/2 sum_ij A_ij over the changes made
is what they cost together. A is a Gram matrix, so no combination is predicted to cost less than
nothing. For a softmax F = diag(p) - p p^T. No label is needed.

Sources: Schaefer et al., arXiv 2306.04879 (Hessians augmented with inter-layer dependencies); Deng
et al., *CLADO*, arXiv 2307.05657 (all pairs). The one-pass form is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quant.label_free import parts

Divergence = Callable[[Any, Any], Tensor]
"""(outputs of the float network, others) -> divergence of every image [b]."""


class CouplingSum:
    """Running sum of A and of the true divergence of every change, over images.

    Attributes:
        total: sum of u_i^T F u_j over the images [m, m], float64, not yet made symmetric.
        divergence: sum of the divergences of each change alone [m], float64.
        n: images.
    """

    def __init__(self, changes: int) -> None:
        self.total = torch.zeros(changes, changes, dtype=torch.float64)
        self.divergence = torch.zeros(changes, dtype=torch.float64)
        self.n = 0

    def add(self, changes: Tensor, curved: Tensor, divergence: Tensor) -> None:
        """Add images: u [m, b, d], F u [m, b, d] and the divergence of every change [m, b]."""
        U, FU = changes.flatten(1), curved.flatten(1)
        self.total += (U @ FU.mT).double().cpu()
        self.divergence += divergence.double().sum(1).cpu()
        self.n += changes.shape[1]

    def couplings(self) -> Tensor:
        """A [m, m], symmetric.

        Raises:
            ValueError: no image was added.
        """
        if self.n == 0:
            raise ValueError("no image was seen: nothing is known of the couplings")
        A = self.total / self.n
        return (A + A.mT) / 2

    def alone(self) -> Tensor:
        """Mean divergence of every change alone [m]."""
        return self.divergence / max(self.n, 1)


def curvature(divergence: Divergence, outputs: Any) -> Callable[[Tensor], Tensor]:
    """u [b, d] -> F u [b, d], F the Hessian of `divergence(outputs, .)` at `outputs`.

    Args:
        divergence: twice differentiable in its second argument.
        outputs: of the float network: a tensor [b, ...] or several; d numbers an image in all.
    """
    with torch.enable_grad():
        at = [part.detach().clone().requires_grad_(True) for part in parts(outputs)]
        others = at[0] if isinstance(outputs, Tensor) else type(outputs)(at)
        loss = divergence(outputs, others).sum()
        gradients = torch.autograd.grad(loss, at, create_graph=True, materialize_grads=True)

    def product(u: Tensor) -> Tensor:
        pieces = torch.split(u, [part[0].numel() for part in at], dim=1)
        along = [piece.reshape(part.shape) for piece, part in zip(pieces, at, strict=True)]
        curved = [(g, v) for g, v in zip(gradients, along, strict=True) if g.requires_grad]
        found = torch.autograd.grad(
            [g for g, _ in curved],
            at,
            [v for _, v in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([one.flatten(1) for one in found], 1)

    return product
