"""The chain, in order: prepare; quantize, in quantizing.py; judge, in judging.py."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pipelines import evaluating, preflight, quantizing
from pipelines.chain import Chain, Log, Run, RunContext
from pipelines.machine.interruption import interruptible
from pipelines.machine.machine import Machine, seed_everything
from pipelines.models.network import Network
from pipelines.reporting.summary import nearby, print_table
from pipelines.stages.check_network import CheckNetwork
from pipelines.stages.solving.solve import wants_importance
from pipelines.store import fingerprint
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from pipelines.tracking import Tracker


def run(
    chain: Chain, store: Store, machine: Machine, tracker: Tracker, about: Run
) -> dict[str, Any]:
    """Run the chain; returns the content of results.json, or of objective.json.

    Raises:
        ValueError, OSError: bad input; found before calibration starts where that is possible.
    """
    code = fingerprint.modules(chain) | fingerprint.modules(type(chain.data))
    fingerprint.closure(code)  # read now: the source may change meanwhile
    machine.use()
    seed_everything(about.seed)
    network = prepare(chain, store, machine, about)
    known = {key: about.about.get(key) for key in ("source", "versions", "command")}
    tracker.start(
        about.config,
        about.name,
        about.folder,
        about.group,
        about.tags,
        about.job_type,
        {**known, "machine": machine.describe()},
    )
    try:
        results = _stages(
            RunContext(chain, store, machine, tracker, about, network, Log(machine, tracker))
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
def prepare(chain: Chain, store: Store, machine: Machine, about: Run) -> Network:
    """Load the network, choose the images, and check all that can be checked by now."""
    preflight.writable(about.folder, "the output folder", "set hydra.run.dir to another one")
    preflight.writable(store.root, "the store", "set OBLIQ_CACHE to another folder")
    preflight.settings_work(chain.quantize.solve, chain.baseline.solve, bits=chain.precision.bits)
    if chain.rounding is not None:
        held_out = chain.objective.images if chain.objective is not None else 0
        chain.rounding.check(chain.calibrate.images - held_out, machine.ranks.world)
    if chain.precision.inputs and chain.activations.placement != "inputs":
        raise ValueError(
            "precision.activations=true gives inputs of layers the bits of their weights: leave "
            f"activations.placement={chain.activations.placement} out"
        )
    chain.model.check()
    data, calibrate = chain.data, chain.calibrate
    with machine.screen.busy("loading the network"):
        network = chain.model.load(store)
    with machine.screen.busy("listing the images"):
        data.prepare(
            network.data_config,
            calibrate.images,
            about.seed,
            calibrate.batch_size,
            calibrate.copies,
        )
    check = preflight.CheckImages(data.skip_bad)
    images = Keyed(data, f"{data.calibration_key},{data.evaluation_key}")
    checked = store.run(check, images, machine)
    if checked.record["skipped"] and not data.skipped:
        data.check()  # leaves out the images that were found before, or by another process
    chosen = Keyed(data, data.calibration_key)
    once = chain.rounding is not None or wants_importance(chain.quantize.solve.fit_grid)
    fits = store.run(CheckNetwork(data.classes, once), network, chosen, machine)
    chain.precision.check(fits.record["layers"])
    if not store.has(calibrate, network, chosen, machine):
        preflight.enough_space(store.root, fits.record["hessian_bytes"])
    return network


@interruptible()
def _stages(running: RunContext) -> dict[str, Any]:
    objective = running.chain.objective
    if objective is None:
        return evaluating.evaluate(running, quantizing.quantize(running))
    held_out = running.chain.data.hold_out(objective.images)  # nothing is fitted to these
    return evaluating.measure(running, objective, held_out, quantizing.quantize(running))
