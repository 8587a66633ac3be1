"""Whether what a layer needs at once fits into memory, told before hours of calibration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from quant.layers import Layer

COPIES = 4  # of a Hessian in float64: the sums, what is damped, its factor, and the inverse
OBQ_COPIES = 2  # of H^-1 in float32 for every row that is solved at once; one row at least
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available() -> int:
    """Bytes of memory that this process can still have: of the machine, or of its container."""
    free = int(psutil.virtual_memory().available)
    for file in CGROUPS:
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):  # "max": no limit
            continue
        free = min(free, max(0, limit - psutil.Process(os.getpid()).memory_info().rss))
    return free


def needed(layer: Layer, obq: bool) -> int:
    """Bytes that solving a layer takes: its Hessian, and for OBQ a row's copies of H^-1."""
    square = layer.columns**2
    return 8 * COPIES * layer.groups * square + (4 * OBQ_COPIES * square if obq else 0)


def check(layers: Iterable[Layer], obq: bool, free: Callable[[], int] = available) -> None:
    """Check that the largest layer can be solved, and that all sums of the calibration fit.

    Raises:
        MemoryError: they do not; the message names the layer, the need and the remedy.
    """
    layers = list(layers)
    if not layers:
        return
    room = free()
    largest = max(layers, key=lambda layer: needed(layer, obq))
    sums = 8 * sum(layer.groups * layer.columns**2 for layer in layers)
    need = max(needed(largest, obq), sums)
    if need <= room:
        return
    g, c = largest.groups, largest.columns
    what = (
        f"the sums of all {len(layers)} layers take {sums / 1e9:.1f} GB"
        if need > needed(largest, obq)
        else f"it takes {need / 1e9:.1f} GB to solve"
    )
    without = max(sums, *(needed(layer, False) for layer in layers))
    raise MemoryError(
        f"layer {largest.name} has a Hessian of {g} x {c} x {c} values, and {what}, but "
        f"{room / 1e9:.1f} GB of memory are free. Use a machine with more memory"
        + (
            f", or baseline=none and another method than obq, which need {without / 1e9:.1f} GB"
            if without < need
            else ""
        )
    )
