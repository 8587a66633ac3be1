"""Streaming layer Hessians: H = (2/n) X X^T over all positions of all images.

Products are computed in X's precision and accumulated in float64, so the result hardly depends on
the batch size. Memory does not grow with the number of images.
"""

from __future__ import annotations

import torch
from torch import Tensor


class HessianSum:
    """Running sum of X Y^T over batches, and of X; Y = X gives the Hessian."""

    def __init__(
        self, total: Tensor | None = None, inputs: Tensor | None = None, n: int = 0
    ) -> None:
        """Start empty, or resume from the sums `total` [g, c, c] and `inputs` [g, c] over n."""
        self.total = total
        self.inputs = inputs
        self.n = n

    def add(self, X: Tensor, Y: Tensor | None = None) -> None:
        """Add n positions: X, Y [g, c, n]."""
        Y = X if Y is None else Y
        g, c, n = X.shape
        if self.total is None or self.inputs is None:
            self.total = torch.zeros(g, c, c, dtype=torch.float64, device=X.device)
            self.inputs = torch.zeros(g, c, dtype=torch.float64, device=X.device)
        self.total += X @ Y.mT
        self.inputs += X.sum(2, dtype=torch.float64)
        self.n += n

    def mean(self) -> Tensor:
        """(2/n) sum X Y^T [g, c, c], float64.

        Raises:
            ValueError: no data was added.
        """
        if self.total is None or self.n == 0:
            raise ValueError("no input was seen: the layer did not run on the calibration images")
        return self.total * (2 / self.n)

    def hessian(self) -> Tensor:
        """`mean`, made exactly symmetric."""
        H = self.mean()
        return (H + H.mT) / 2

    def input_mean(self) -> Tensor:
        """Mean of X over all positions [g, c], float64."""
        if self.inputs is None or self.n == 0:
            raise ValueError("no input was seen: the layer did not run on the calibration images")
        return self.inputs / self.n


def centred(H: Tensor, mean: Tensor) -> Tensor:
    """The Hessian of centred inputs: H - 2 m m^T = (2/n) (X - m)(X - m)^T.

    A layer's loss then ignores the mean of the output error, which a normalisation after the layer
    can remove. H [g, c, c], mean [g, c]; the result has H's precision.
    """
    m = mean.double()
    return (H.double() - 2 * m[:, :, None] * m[:, None, :]).to(H.dtype)
