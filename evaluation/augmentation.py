"""Augmented copies of calibration images: shifted slightly, half of them mirrored.

Hessians of a thousand small images overfit: a network solved on them is a third closer to its float
original on those images than on others. No labels are needed, so augmented copies can add images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

SHIFT = 8  # shift an image by at most 1 / SHIFT of its height and width


class WithCopies(Dataset[Any]):
    """All images of a data set unchanged, then `copies` passes of augmented ones.

    Args:
        images: data set of n pairs (x [3, h, w], y); y is passed through unchanged.
        copies: number of augmented passes.
        start: number of the n (1 + copies) items to skip at the beginning.
    """

    def __init__(self, images: Any, copies: int, start: int = 0) -> None:
        self.images, self.copies, self.start = images, copies, start

    def __len__(self) -> int:
        return max(0, len(self.images) * (1 + self.copies) - self.start)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if index >= len(self):
            raise IndexError(index)
        item = self.start + index
        x, y = self.images[item % len(self.images)]
        return (x if item < len(self.images) else augmented(x, item)), y


def augmented(x: Tensor, seed: int) -> Tensor:
    """x [3, h, w] shifted by up to 1 / SHIFT with reflection padding, flipped half of the time."""
    generator = torch.Generator().manual_seed(seed)
    h, w = x.shape[-2:]
    down, right = h // SHIFT, w // SHIFT
    top, left = (
        int(torch.randint(0, 2 * most + 1, (), generator=generator)) for most in (down, right)
    )
    padded = F.pad(x[None], (right, right, down, down), mode="reflect")[0]
    shifted = padded[:, top : top + h, left : left + w]
    return shifted.flip(-1) if torch.rand((), generator=generator) < 0.5 else shifted
