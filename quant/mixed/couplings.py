"""Couplings between perturbations of layers: all pairs from one forward pass per perturbation.

With u_i(x) the change of the network's outputs on image x under perturbation i alone, and F(x) the
Hessian of the task's divergence with respect to the outputs, at those of the float network,

    A_ij = mean_x u_i(x)^T F(x) u_j(x)

is the Gauss-Newton estimate of the pair's contribution to the loss: a set of perturbations costs
1/2 sum_ij A_ij over its members. A is a Gram matrix, so no predicted cost is negative. For a
softmax, F = diag(p) - p p^T. No labels are needed.

Sources: Schaefer et al., arXiv 2306.04879 (Hessians augmented with inter-layer dependencies); Deng
et al., *CLADO*, arXiv 2307.05657 (all pairs). Computing all pairs from single passes is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quant.label_free import tensors_of

Divergence = Callable[[Any, Any], Tensor]
"""(outputs of the float network, other outputs) -> divergence of each image [b]."""


class CouplingSum:
    """Running sums over images of A and of the true divergence of each of m perturbations.

    Attributes:
        total: sum of u_i^T F u_j over images [m, m], float64, not yet made symmetric.
        divergence: sum of the divergence of each perturbation alone over images [m], float64.
        n: number of images.
    """

    def __init__(self, perturbations: int) -> None:
        self.total = torch.zeros(perturbations, perturbations, dtype=torch.float64)
        self.divergence = torch.zeros(perturbations, dtype=torch.float64)
        self.n = 0

    def add(self, u: Tensor, Fu: Tensor, divergence: Tensor) -> None:
        """Add b images: u [m, b, d], F u [m, b, d] and the divergence of perturbations [m, b]."""
        self.total += (u.flatten(1) @ Fu.flatten(1).mT).double().cpu()
        self.divergence += divergence.double().sum(1).cpu()
        self.n += u.shape[1]

    def couplings(self) -> Tensor:
        """A [m, m], symmetric.

        Raises:
            ValueError: no image was added.
        """
        if self.n == 0:
            raise ValueError("no image was added: couplings need at least one")
        A = self.total / self.n
        return (A + A.mT) / 2

    def alone(self) -> Tensor:
        """Mean divergence of each perturbation alone [m]."""
        return self.divergence / max(self.n, 1)


def curvature(divergence: Divergence, outputs: Any) -> Callable[[Tensor], Tensor]:
    """The product u [b, d] -> F u [b, d], with F the Hessian of `divergence(outputs, .)`.

    F is taken at `outputs`.

    Args:
        divergence: twice differentiable in its second argument.
        outputs: outputs of the float network, one tensor [b, ...] or several, with d values per
            image in total.
    """
    with torch.enable_grad():
        at = [part.detach().clone().requires_grad_(True) for part in tensors_of(outputs)]
        others = at[0] if isinstance(outputs, Tensor) else type(outputs)(at)
        loss = divergence(outputs, others).sum()
        gradients = torch.autograd.grad(loss, at, create_graph=True, materialize_grads=True)

    def product(u: Tensor) -> Tensor:
        pieces = torch.split(u, [part[0].numel() for part in at], dim=1)
        vectors = [piece.reshape(part.shape) for piece, part in zip(pieces, at, strict=True)]
        pairs = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g.requires_grad]
        products = torch.autograd.grad(
            [g for g, _ in pairs],
            at,
            [v for _, v in pairs],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([one.flatten(1) for one in products], 1)

    return product
