"""Everything that can be found wrong before hours of work are spent."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.images import ImageData
from pipelines.machine.disk import is_full
from pipelines.machine.machine import Machine
from pipelines.stages.solving.solve import SolveLayer, wants_importance
from pipelines.store.artifacts import Artifact, Keyed
from quant.problem import LayerProblem

SPARE = 2**28  # bytes that must stay free beside the Hessians


@dataclass(frozen=True)
class CheckImages:
    """Decode every image once; what was found good is not decoded again."""

    skip_bad: bool

    def run(self, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Record: the unreadable images that were left out, with reasons."""
        images = data.value
        total = len(images.calibration) + len(images.evaluation)
        with machine.screen.bar("check images", total) as advance:
            images.check(lambda done, total: advance(1))
        return Artifact({}, {"skipped": images.skipped})


def writable(folder: Path, purpose: str, remedy: str) -> None:
    """Write and remove a small file.

    Raises:
        OSError: the folder cannot be made or written, or its disk is full.
    """
    probe = folder / f".probe{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(2**16))
        probe.unlink()
    except OSError as err:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        what = "is full" if is_full(err) else f"cannot be written ({err.strerror})"
        raise type(err)(err.errno, f"{purpose} {folder} {what}: {remedy}") from err


def settings_work(*solves: SolveLayer, bits: int) -> None:
    """Solve a layer of three rows and four columns.

    Raises:
        ValueError: a setting of the method or of the grid is not one that it knows.
    """
    W = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    problem = LayerProblem(W, torch.eye(4)[None])
    for solve in solves:
        h = {"importance": W.square()} if wants_importance(solve.fit_grid) else {}
        solve.method(problem.prepared(solve.damping), solve.fit_grid(W, bits, **h))


def enough_space(store: Path, hessians: int) -> None:
    """The store's disk takes the Hessians.

    Raises:
        OSError: it does not.
    """
    free = shutil.disk_usage(store).free
    if free < hessians + SPARE:
        raise OSError(
            f"the store {store} has {free / 1e9:.2f} GB free but the Hessians of this network need "
            f"{(hessians + SPARE) / 1e9:.2f} GB: free some, or set OBLIQ_CACHE to another folder"
        )
