"""Checks before the expensive stages start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.class_names import names_of
from evaluation.images import ImageData
from pipelines.machine import room
from pipelines.machine.disk import is_full
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.models.outputs import TakeTensor
from pipelines.stages.check_network import run_network
from pipelines.stages.solving.solve import SolveLayer, needs_importance
from pipelines.store.artifacts import Artifact, Keyed
from quant.layers import Layer
from quant.methods import obq
from quant.on_grid import check_on_grid
from quant.problem import LayerProblem

SPARE = 2**28  # bytes that must stay free in addition to the Hessians


@dataclass(frozen=True)
class CheckImages:
    """Decode every image once; the store remembers the result."""

    skip_bad: bool

    def run(self, data: Keyed[ImageData], machine: Machine) -> Artifact:
        """Record: unreadable images that were skipped, with reasons."""
        images = data.value
        total = len(images.calibration) + len(images.evaluation)
        with machine.screen.bar("check images", total) as advance:
            images.check(lambda done, total: advance(1))
        return Artifact({}, {"skipped": images.skipped})


def check_writable(folder: Path, purpose: str, remedy: str) -> None:
    """Write and remove a small file.

    Raises:
        OSError: the folder cannot be created or written, or its disk is full.
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


def check_settings(*solves: SolveLayer, bits: int) -> None:
    """Solve a layer of three rows and four columns.

    Raises:
        ValueError: a setting of the method or of the grid is invalid.
    """
    W = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    problem = LayerProblem(W, torch.eye(4)[None])
    for solve in solves:
        h = {"importance": W.square()} if needs_importance(solve.fit_grid) else {}
        grid = solve.fit_grid(W, bits, **h)
        Q = solve.method(problem.prepared(solve.damping), grid)
        check_on_grid(Q, grid, W.shape, "a layer to try the method on")


def task_fits(network: Network, data: ImageData) -> str:
    """Run a blank image: the network is of the data set's task, as far as that can be told.

    No data are read. How many classes a data set has is known later, for some. The data set learns
    the network's class names, which its labels follow.

    Returns:
        which tensor of the network's output is used, if the output is more than that; else "".

    Raises:
        ValueError: it takes other inputs, or gives something else, than the task needs.
    """
    data.check_input(network.data_config)
    data.network_names = names_of(network.module)
    if "input_size" not in network.data_config:
        return ""
    example, take = torch.zeros(1, *network.data_config["input_size"]), TakeTensor()
    if hasattr(network.module, "decode"):  # a detector, whose outputs are several
        run_network(network, data, example)
        return ""
    hook = network.module.register_forward_hook(take)
    run_network(network, data, example)
    if not take.taken:
        hook.remove()
    return take.taken


def check_memory(layers: Iterable[Layer], *solves: SolveLayer) -> None:
    """Check that the Hessians, and OBQ's copies of their inverses, fit into memory.

    Raises:
        MemoryError: they do not.
    """
    methods = [getattr(solve.method, "func", solve.method) for solve in solves]
    room.check(layers, obq=obq.quantize in methods)


def check_free_space(store: Path, layers: Iterable[Layer]) -> None:
    """Check that the layers' Hessians fit on the store's disk.

    Raises:
        OSError: they do not.
    """
    hessians = sum(4 * layer.groups * layer.columns**2 for layer in layers)
    free = shutil.disk_usage(store).free
    if free < hessians + SPARE:
        raise OSError(
            f"the store {store} has {free / 1e9:.2f} GB free but the Hessians of this network need "
            f"{(hessians + SPARE) / 1e9:.2f} GB: free some space, or set OBLIQ_CACHE to a folder "
            "on another disk"
        )
