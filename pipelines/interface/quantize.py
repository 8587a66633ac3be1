"""Quantize a network in memory through the stages of the command line."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.tensors import TensorData, collected
from pipelines import ptq, quantizing, run
from pipelines.chain import Chain, Log, RunContext, RunInfo
from pipelines.cli import errors
from pipelines.interface.given import GivenModel
from pipelines.interface.result import Layers, Quantized
from pipelines.machine.machine import Machine, seed_everything
from pipelines.machine.screen import Screen
from pipelines.reproducing import provenance
from pipelines.stages.calibrate import keyed_layers
from pipelines.stages.precision.workload import RecordWorkloads, remainder_of, workloads_of
from pipelines.stages.report import solved_row, state_of
from pipelines.store.store import Store
from pipelines.tracking import NullTracker


def quantize(
    model: nn.Module,
    images: Iterable[Any] | Tensor,
    method: str,
    settings: Mapping[str, Any],
    store: str | PathLike[str] | None,
    progress: bool,
) -> Quantized:
    """See `obliq.quantize`; `settings` are all but the method's."""
    found = run.composed([f"method={method}"], settings)
    count = found["calibrate"]["images"] or found["calibrate"]["max_images"]
    tensors, _ = collected(images, count)
    data = TensorData(tensors, None, found["calibrate"]["batch_size"])
    given = GivenModel(model, tensors[0])
    try:
        chain, machine = run.built(found, model=given, data=data)
    except Exception as err:  # Hydra's, around the ValueError that says what is wrong
        raise errors.cause(err) from None
    screen = Screen() if progress else Screen.nowhere()
    with tempfile.TemporaryDirectory(prefix="obliq-") as folder, _own_random_numbers():
        root = Path(store).expanduser() if store is not None else Path(folder, "store")
        own = Store(root, screen.line)
        context = _context(chain, own, machine, screen, found, Path(folder), method)
        result = quantizing.quantize(context)
        return _finished(context, result, model, torch.stack(tensors[:2]))


def _context(
    chain: Chain,
    store: Store,
    machine: Machine,
    screen: Screen,
    settings: Mapping[str, Any],
    folder: Path,
    method: str,
) -> RunContext:
    """As `ptq.run` makes it, without a tracker and an output folder."""
    machine = replace(machine, screen=screen)
    machine.setup()
    about = {
        "method": method,
        "weight_bits": settings["bits"],
        "act_bits": settings["act_bits"],
        "versions": provenance.versions(),
    }
    info = RunInfo(folder, about, {}, "", None, [], "", settings["seed"])
    seed_everything(info.seed)
    network, chain = ptq.prepare(chain, store, machine, info)
    tracker = NullTracker()
    return RunContext(chain, store, machine, tracker, info, network, Log(machine, tracker))


def _finished(
    context: RunContext, found: quantizing.QuantizedModel, given: nn.Module, example: Tensor
) -> Quantized:
    chain, network = context.chain, context.network
    recorded = context.store.run(
        RecordWorkloads(),
        network,
        keyed_layers(found.layers, found.calibration),
        context.images,
        context.machine,
    )
    act_bits = found.activations.record["bits"] if found.activations is not None else {}
    costs = chain.costs.run(
        workloads_of(recorded), remainder_of(recorded), found.allocation.bits, act_bits or None
    )
    rows = [
        solved_row(found.layers[name], solution, act_bits.get(name))
        for name, solution in found.weights.solutions.items()
    ]
    left = {row["name"]: row["reason"] for row in found.calibration.record["skipped"]}
    about = {
        **context.info.about,
        "model": network.name,
        "fingerprints": {"network": network.key},
        "preprocessing": None,
        "classes": [],
    }
    device = next((p.device for p in given.parameters()), torch.device("cpu"))
    state = state_of(found.best.value, found.weights, found.activations)
    return Quantized(
        model=found.best.value.to(device),
        layers=Layers(rows, costs["coverage"], left),
        state=state,
        about=about,
        network=network.module,
        example=example,
    )


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Leave the program's random numbers as they are."""
    state, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)
