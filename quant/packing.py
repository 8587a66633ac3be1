"""Bit packing: b-bit codes back to back in bytes, most significant bit first."""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 2**20  # codes per step; a multiple of 8, so that every full step ends on a whole byte


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes.

    Args:
        codes: whole numbers 0 ... 2**bits - 1, of any shape and dtype.
        bits: bit width, 1 ... 16.

    Returns:
        uint8 [ceil(numel * bits / 8)].

    Raises:
        ValueError: a code does not fit into `bits` bits.
    """
    flat = codes.reshape(-1)
    if flat.numel() and (flat.min() < 0 or flat.max() >= 2**bits):
        raise ValueError(
            f"codes from {int(flat.min())} to {int(flat.max())} do not fit into {bits} bits"
        )
    places = torch.arange(bits - 1, -1, -1, device=flat.device)
    weights = 2 ** torch.arange(7, -1, -1, device=flat.device)
    parts = []
    for part in torch.split(flat, STEP):
        stream = (part.to(torch.int64)[:, None] >> places & 1).reshape(-1)
        stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8))
        parts.append((stream.reshape(-1, 8) * weights).sum(1).to(torch.uint8))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def require_length(packed: Tensor, bits: int, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless `packed` has the length of packed codes of `shape`."""
    count = int(torch.Size(shape).numel())
    if len(packed) != -(-count * bits // 8):
        raise ValueError(f"{len(packed)} bytes do not hold {count} codes of {bits} bits")


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `pack`: int64 codes of `shape`.

    Raises:
        ValueError: the length of `packed` does not match `bits` and `shape`.
    """
    require_length(packed, bits, shape)
    count = int(torch.Size(shape).numel())
    places = torch.arange(7, -1, -1, device=packed.device)
    weights = 2 ** torch.arange(bits - 1, -1, -1, device=packed.device)
    parts = []
    for start in range(0, count, STEP):
        n = min(STEP, count - start)
        part = packed[start * bits // 8 : -(-(start + n) * bits // 8)].to(torch.int64)
        stream = (part[:, None] >> places & 1).reshape(-1)[: n * bits]
        parts.append((stream.reshape(n, bits) * weights).sum(1))
    return torch.cat(parts).reshape(shape) if parts else torch.empty(shape, dtype=torch.int64)
