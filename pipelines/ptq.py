"""The chain, in order: prepare; quantize (quantizing.py); evaluate (evaluating.py)."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any

from evaluation import content_index
from pipelines import evaluating, preflight, quantizing
from pipelines.chain import Chain, Log, RunContext, RunInfo
from pipelines.machine.interruption import interruptible
from pipelines.machine.machine import Machine, seed_everything
from pipelines.models.network import Network
from pipelines.reporting.summary import nearby, print_table
from pipelines.reproducing import own_code
from pipelines.stages import counts
from pipelines.stages.calibrate import layers_of
from pipelines.stages.check_network import CheckNetwork
from pipelines.store import fingerprint, image_keys
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from pipelines.tracking import Tracker


def run(
    chain: Chain, store: Store, machine: Machine, tracker: Tracker, info: RunInfo
) -> dict[str, Any]:
    """Run the chain; returns the content of results.json, or of objective.json.

    Raises:
        ValueError, OSError: bad input; raised before calibration where possible.
    """
    stages = {f.name: getattr(chain, f.name) for f in dataclasses.fields(chain)}
    code = fingerprint.freeze({**stages, "data": type(chain.data)})
    machine.setup()
    seed_everything(info.seed)
    network, chain = prepare(chain, store, machine, info)
    info = info.with_counts(chain.counts)
    used = code | {type(part).__module__ for part in network.module.modules()}
    info = info.with_own_code(own_code.record(used, info.folder))
    provenance = {key: info.about.get(key) for key in ("source", "versions", "command")}
    tracker.start(
        info.config,
        info.name,
        info.folder,
        info.group,
        info.tags,
        info.job_type,
        {**provenance, "machine": machine.describe()},
    )
    try:
        results = _stages(
            RunContext(chain, store, machine, tracker, info, network, Log(machine, tracker))
        )
    except BaseException as err:
        with suppress(Exception):
            tracker.fail(err)
        raise
    tracker.finish()
    if machine.ranks.rank:
        return results
    if chain.objective is None and not machine.screen.brief:
        print_table(results, machine.screen.console)
    if tracker.where:
        machine.screen.line(f" W&B                 {nearby(tracker.where)}", style="dim")
    return results


@interruptible()
def prepare(chain: Chain, store: Store, machine: Machine, info: RunInfo) -> tuple[Network, Chain]:
    """Load the network, choose the images, and check everything that can be checked early.

    Returns:
        The network, and the chain with its numbers of images fitted to those that there are.
    """
    preflight.check_writable(info.folder, "the output folder", "set hydra.run.dir to another one")
    preflight.check_writable(store.root, "the store", "set OBLIQ_CACHE to another folder")
    solves = [s for s in (chain.quantize.solve, chain.baseline.solve) if s is not None]
    preflight.check_settings(*solves, bits=chain.precision.bits)
    if chain.precision.inputs and chain.activations.placement != "inputs":
        raise ValueError(
            "precision.activations=true gives a layer's input the bits of its weights, which needs "
            f"activations.placement=inputs, not {chain.activations.placement}"
        )
    chain.model.check()
    data, calibrate = chain.data, chain.calibrate
    with machine.screen.busy("loading the network"):
        network = chain.model.load(store)
        taken = preflight.task_fits(network, data)
    if taken:
        network = replace(network, key=sha256(f"{network.key} {taken}".encode()).hexdigest())
        machine.screen.line(f"  of the network's outputs, {taken} is used", style="dim")
    content_index.remember(store.root / "files.txt")
    with machine.screen.busy("listing the images"):
        data.prepare(
            network.data_config,
            calibrate.images,
            info.seed,
            calibrate.batch_size,
            calibrate.augmented_copies,
            calibrate.max_images,
        )
        chosen = len(data.calibration)
    machine.screen.line(f"  {data.summary()}", style="dim")
    check = preflight.CheckImages(data.skip_bad)
    calibration = image_keys.calibration(data)
    images = Keyed(data, f"{calibration.key},{image_keys.evaluation(data).key}")
    checked = store.run(check, images, machine)
    if checked.record["skipped"] and not data.skipped:
        data.check()  # skips the bad images that an earlier run or another process recorded
    chain = _fitted(chain, chosen, machine)
    images = image_keys.calibration(data)
    check_network = CheckNetwork(data.classes, chain.weighing)
    layers = layers_of(store.run(check_network, network, images, machine))
    for stage in (chain.precision, chain.activations):
        stage.check(list(layers))
    if not store.has(chain.calibrate, network, images, machine):
        preflight.check_free_space(store.root, layers.values())
        preflight.check_memory(layers.values(), *solves)
    return network, chain


def _fitted(chain: Chain, chosen: int, machine: Machine) -> Chain:
    """The chain with its numbers of images fitted to those that there are.

    Refuses what needs more images, and reports what takes fewer than its setting says.
    """
    there = len(chain.data.calibration)
    chain = chain.fitted(chosen, there)
    fitting = there - chain.held_out(there)
    if chain.rounding is not None:
        chain.rounding.check(fitting, machine.ranks.world)
    if text := counts.told(chain.at_most, fitting):
        machine.screen.line(f"  {text}", style="dim")
    return chain


@interruptible()
def _stages(context: RunContext) -> dict[str, Any]:
    chain = context.chain
    doubts = evaluating.doubts(context)
    if chain.objective is None:
        return evaluating.evaluate(context, quantizing.quantize(context), doubts)
    count = chain.held_out(len(chain.data.calibration))
    held_out = chain.data.hold_out(count)  # removed from calibration
    model = quantizing.quantize(context)
    return evaluating.measure(context, chain.objective, held_out, model, doubts)
