"""Checks before the expensive stages start."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evaluation.images import ImageData
from pipelines.machine import room
from pipelines.machine.disk import is_full
from pipelines.machine.machine import Machine
from pipelines.models.network import Network
from pipelines.stages.activations import QuantizeActivations
from pipelines.stages.precision.allocate import Precision
from pipelines.stages.solving.solve import SolveLayer, needs_importance
from pipelines.store.artifacts import Artifact, Keyed
from quant.calls import Call, Calls
from quant.layers import find
from quant.methods import obq
from quant.on_grid import check_on_grid
from quant.problem import LayerProblem

SPARE = 2**28  # bytes that must stay free in addition to the Hessians
SAMPLE = 8  # images on which to check that every layer runs once


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


def check_network(
    network: Network, data: ImageData, precision: Precision, activations: QuantizeActivations
) -> int:
    """Run one image; check the network's outputs and the layers that settings name.

    Returns:
        size of all Hessians, in bytes.

    Raises:
        ValueError: the network fails on the images, returns outputs that do not suit the task,
            or lacks a layer that is named in `precision`.
    """
    example, _ = next(iter(data.calibration_loader()))
    _runs(network, data, example[:1])
    layers, _ = find(network.module, example[:1])
    for stage in (precision, activations):
        stage.check(list(layers))
    return sum(4 * x.groups * x.columns**2 for x in layers.values())


def task_fits(network: Network, data: ImageData) -> None:
    """Run a blank image: the network is of the data set's task, as far as that can be told.

    No data are read. How many classes a data set has is known later, for some.

    Raises:
        ValueError: it takes other inputs, or gives something else, than the task needs.
    """
    data.check_input(network.data_config)
    if "input_size" in network.data_config:
        _runs(network, data, torch.zeros(1, *network.data_config["input_size"]))


def _runs(network: Network, data: ImageData, example: Tensor) -> None:
    try:
        with torch.inference_mode():
            data.check_network(network.module, network.name, example)
    except RuntimeError as err:
        raise ValueError(
            f"model {network.name} does not accept images of shape {list(example.shape[1:])}: {err}"
        ) from err


def check_layers_run_once(network: Network, data: ImageData) -> None:
    """Check that every layer runs once in a forward pass, as EPTQ and HMSE grids require.

    Raises:
        ValueError: a layer runs more than once on a batch.
    """
    count = min(SAMPLE, len(data.calibration))
    example, _ = next(iter(data.calibration_batches([range(count)])))
    layers, _ = find(network.module, example)
    weights = {name: network.module.get_parameter(x.weight) for name, x in layers.items()}
    runs: Counter[str] = Counter()

    def receive(name: str, operation: str, call: Call | None) -> None:
        runs[name] += 1

    with torch.inference_mode(), Calls(weights, receive):
        network.module(example)
    name, most = runs.most_common(1)[0]
    if most > 1:
        raise ValueError(
            f"layer {name} of model {network.name} runs {most} times on {count} {data.kind} (once "
            "per sentence length, or because its weight is shared), but method=eptq and "
            "grid.search=hmse need one output of a layer for the whole batch. Use "
            "method=row_parallel, gptq, obq or rtn with grid.search=mse"
        )


def check_memory(network: Network, data: ImageData, *solves: SolveLayer) -> None:
    """Check that the Hessians, and OBQ's copies of their inverses, fit into memory.

    Raises:
        MemoryError: they do not.
    """
    example, _ = next(iter(data.calibration_loader()))
    layers, _ = find(network.module, example[:1])
    methods = [getattr(solve.method, "func", solve.method) for solve in solves]
    room.check(layers.values(), obq=obq.quantize in methods)


def check_free_space(store: Path, hessians: int) -> None:
    """Check that the Hessians fit on the store's disk.

    Raises:
        OSError: they do not.
    """
    free = shutil.disk_usage(store).free
    if free < hessians + SPARE:
        raise OSError(
            f"the store {store} has {free / 1e9:.2f} GB free but the Hessians of this network need "
            f"{(hessians + SPARE) / 1e9:.2f} GB: free some space, or set OBLIQ_CACHE to a folder "
            "on another disk"
        )
