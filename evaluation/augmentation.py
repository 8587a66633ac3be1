"""Altered copies of calibration images: shifted a little, half of them mirrored.

Hessians of a thousand small images fit those images: a network solved on them is a third nearer to
its float original there than on others. No label is needed, so altered copies serve as more images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

SHIFT = 8  # an image moves by at most one part in so many of its size


class WithCopies(Dataset[Any]):
    """The images of a data set as they are, then `copies` altered ones of each, pass by pass.

    Args:
        images: (x [3, h, w], y) by number, n of them; y is handed on as it is.
        copies: passes after the first one.
        start: leave out so many of all n (1 + copies).
    """

    def __init__(self, images: Any, copies: int, start: int = 0) -> None:
        self.images, self.copies, self.start = images, copies, start

    def __len__(self) -> int:
        return max(0, len(self.images) * (1 + self.copies) - self.start)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if index >= len(self):
            raise IndexError(index)
        number = self.start + index
        x, y = self.images[number % len(self.images)]
        return (x if number < len(self.images) else altered(x, number)), y


def altered(x: Tensor, seed: int) -> Tensor:
    """x [3, h, w] moved by up to an eighth of its size, its edges mirrored, and maybe flipped."""
    draw = torch.Generator().manual_seed(seed)
    h, w = x.shape[-2:]
    down, right = h // SHIFT, w // SHIFT
    top, left = (int(torch.randint(0, 2 * most + 1, (), generator=draw)) for most in (down, right))
    wide = F.pad(x[None], (right, right, down, down), mode="reflect")[0]
    moved = wide[:, top : top + h, left : left + w]
    return moved.flip(-1) if torch.rand((), generator=draw) < 0.5 else moved
