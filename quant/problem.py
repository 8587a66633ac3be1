"""The layer problem: all that a layer-wise method may use.

    loss(Q) = sum over rows of (w - q) H (w - q)^T,    H = (2/n) X X^T

Source: Frantar, Singh, Alistarh, *Optimal Brain Compression*, arXiv 2208.11580.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

DEAD = 1e-19  # of the mean energy, as amplitude 3e-10: less than rounding changes an output
LEAF = 64  # columns below which a triangular inverse is not split further


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer as matrices: g groups (1 except for grouped convolutions), r rows, c columns.

    Attributes:
        W: weights [g, r, c].
        H: Hessian of the layer's squared output error [g, c, c], symmetric.
    """

    W: Tensor
    H: Tensor

    def __post_init__(self) -> None:
        if self.W.dim() != 3:
            raise ValueError(f"W is {list(self.W.shape)} but must be [groups, rows, columns]")
        g, _, c = self.W.shape
        if self.H.shape != (g, c, c):
            raise ValueError(
                f"H is {list(self.H.shape)} but W is {list(self.W.shape)}: H must be "
                f"[{g}, {c}, {c}]. Was H collected from another layer?"
            )

    def prepared(self, damping: float) -> LayerProblem:
        """The same layer with a positive definite H, unless `damping` is 0.

        A dead input (`dead_inputs`) gets H_jj = 1 and zero weights. Then, for each group, `damping`
        times the mean of the diagonal is added to the diagonal.

        Raises:
            ValueError: damping outside [0, 1), or H not finite.
        """
        if not 0 <= damping < 1:
            raise ValueError(
                f"damping={damping} must lie in [0, 1): it is a fraction of the mean "
                "Hessian diagonal, 0.01 is usual"
            )
        if not self.H.isfinite().all():
            raise ValueError(
                "the Hessian holds NaN or infinite values: an activation overflowed. Check the "
                "calibration images and the checkpoint, or calibrate with machine.precision=32-true"
            )
        dead = dead_inputs(self.H)
        H = self.H.masked_fill(dead[:, :, None] | dead[:, None, :], 0)
        diagonal = H.diagonal(dim1=1, dim2=2)  # a view
        diagonal[dead] = 1
        diagonal += damping * diagonal.mean(1, keepdim=True)
        return LayerProblem(self.W.masked_fill(dead[:, None, :], 0), H)

    def permuted(self, order: Tensor) -> LayerProblem:
        """The layer with its columns permuted by `order` [g, c]."""
        g, r, c = self.W.shape
        rows = self.H.gather(1, order[:, :, None].expand(g, c, c))
        return LayerProblem(
            self.W.gather(2, order[:, None].expand(g, r, c)),
            rows.gather(2, order[:, None].expand(g, c, c)),
        )

    def take_rows(self, index: Tensor) -> LayerProblem:
        """The layer with only the output rows `index` of every group."""
        return replace(self, W=self.W[:, index])

    def loss(self, Q: Tensor) -> Tensor:
        """Loss of each row [g, r], float64: for undamped H, twice the mean squared output error."""
        E = (self.W - Q).double()
        return ((E @ self.H.double()) * E).sum(-1)


def dead_inputs(H: Tensor) -> Tensor:
    """Which columns [g, c] of H [g, c, c] are never active, but for rounding errors."""
    diagonal = H.diagonal(dim1=1, dim2=2)
    return diagonal <= DEAD * diagonal.mean(1, keepdim=True)


def inverse_root(
    H: Tensor, dtype: torch.dtype = torch.float64, add_identity: bool = False
) -> Tensor:
    """Upper triangular U with H^-1 = U^T U, for positive definite H [g, c, c].

    With J the reversal of the columns and J H J = L L^T, U = J L^-1 J: one Cholesky factorization
    in float64 and one triangular inverse in `dtype`. H^-1 itself is never formed. With
    `add_identity`, groups whose H is not positive definite in `dtype` take H + I: that is OBC's
    code, which factorizes in float32.

    Raises:
        ValueError: H is not positive definite.
    """
    flipped = H.double().flip(1, 2)
    L, info = torch.linalg.cholesky_ex(flipped)
    if add_identity:
        singular = (info != 0) | (torch.linalg.cholesky_ex(flipped.to(dtype))[1] != 0)
        if bool(singular.any()):
            flipped.diagonal(dim1=1, dim2=2).add_(singular[:, None])
            L, info = torch.linalg.cholesky_ex(flipped)
    if bool((info != 0).any()):
        raise ValueError(
            "Cholesky failed: the Hessian is not positive definite. Raise the damping "
            "(for example damping=0.05) or calibrate on more images"
        )
    return _triangular_inverse(L.to(dtype)).flip(1, 2)


def _triangular_inverse(L: Tensor) -> Tensor:
    """L^-1 of lower triangular L [g, c, c], recursively by halves: mostly matrix products."""
    c = L.shape[-1]
    if c <= LEAF:
        eye = torch.eye(c, dtype=L.dtype, device=L.device).expand_as(L)
        inverse: Tensor = torch.linalg.solve_triangular(L, eye, upper=False)
        return inverse
    a, b = slice(0, c // 2), slice(c // 2, c)
    inverse = torch.zeros_like(L)
    inverse[:, a, a] = _triangular_inverse(L[:, a, a])
    inverse[:, b, b] = _triangular_inverse(L[:, b, b])
    inverse[:, b, a] = -inverse[:, b, b] @ (L[:, b, a] @ inverse[:, a, a])
    return inverse
