"""The command line: compose the configuration, build every stage, start the chain.

The only file that imports Hydra. `obliq ...` and `python -m pipelines.run ...` are the same.
`obliq store`, `obliq reproduce` and `obliq table` bypass Hydra: see `store/command.py`,
`reproducing/command.py` and `comparing/table.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from platformdirs import user_cache_path

from pipelines.cli import (
    choices,
    command_line,
    errors,
    example,
    help,
    layer_bits,
    naming,
    overrides,
    pipes,
    renamed,
    secrets,
)
from pipelines.machine import interruption, launch, memory
from pipelines.machine.screen import Screen
from pipelines.reporting import formatting
from pipelines.store import limit as store_limit
from pipelines.sweeps import jobs

if TYPE_CHECKING:
    from pipelines.chain import Chain
    from pipelines.machine.machine import Machine

UNREACHED = 3  # exit status: no configuration meets precision.target

checks: list[Callable[[dict[str, Any]], None]] = []  # called with each job's settings; may raise


def main() -> None:
    """Entry point of the console script; exits with a non-zero status if a job failed."""
    with pipes.forgiving():
        if status := _main(sys.argv[1:]):
            sys.exit(status)


def _main(arguments: list[str]) -> int:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises instead of printing
    jobs.sweep = None
    checks.clear()
    if help.answered(arguments, overrides.CONF):
        return 0
    if arguments[:1] == ["store"]:
        from pipelines.store import command as store_command

        return store_command.main(arguments[1:], _store())
    if arguments[:1] == ["reproduce"]:
        from pipelines.reproducing import command as reproduce_command

        return reproduce_command.main(arguments[1:], _store(), _rerun)
    if arguments[:1] == ["table"]:
        from pipelines.comparing import table

        return table.main(arguments[1:])
    with interruption.terminable():
        return _jobs(Screen())


def _jobs(screen: Screen) -> int:
    """Run the job or sweep of sys.argv; returns the exit status."""
    try:
        sys.argv[1:] = command_line.read(sys.argv[1:], _fault, screen.line)
        job()
    except KeyboardInterrupt:
        _interrupted(screen)
    except Exception as err:
        if isinstance(err, OSError) and not isinstance(err, MissingConfigException):
            err.add_note(errors.FOLDER)  # Hydra first creates it and its config/
        _explain(err, screen)
        jobs.finish(screen)
        return 2
    return jobs.finish(screen)


def _fault(override: str) -> str | None:
    """The error of Hydra's grammar in `name=value`; None if it is valid."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException as err:
        return str(err).splitlines()[0]
    return None


def _rerun(command: Sequence[str], store: Path, check: Callable[[dict[str, Any]], None]) -> int:
    """Run `obliq COMMAND` on another store, after `check(settings)`; returns the exit status."""
    sys.argv = [sys.argv[0], *command]
    os.environ["OBLIQ_CACHE"] = str(store)
    checks[:] = [check]
    try:
        return _jobs(Screen())
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


@hydra.main(version_base="1.3", config_path=str(overrides.CONF), config_name="run")
def job(cfg: DictConfig) -> float | None:
    """Run one job; returns its objective, if any, to the sweeper.

    Raises:
        SystemExit: the run failed or was interrupted. A failed job of a sweep does not raise: the
            other jobs continue, and `jobs.finish` reports it.
    """
    with pipes.forgiving():
        return _job(cfg)


def _job(cfg: DictConfig) -> float | None:
    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)
    name = _name(cfg)
    sweep = Path(config.sweep.dir) if _is_sweep() else None
    number = config.job.num if sweep else 0
    alone = sweep is None or config.launcher._target_.endswith(".BasicLauncher")
    screen = Screen() if alone else jobs.screen(f"{number} {name}")
    outcome = jobs.Outcome(number, name, str(folder))
    if sweep:
        with suppress(OSError):  # from an earlier sweep into the same folder
            (folder / "error.log").unlink(missing_ok=True)
        outcome.write(sweep)
    status, text, value = 0, "", None
    try:
        results = start(cfg, folder, screen)
        (folder / "error.log").unlink(missing_ok=True)  # from an earlier try
        value = (results.get("objective") or {}).get("value")
        if (results.get("precision") or {}).get("reached") is False:
            status, text = UNREACHED, formatting.out_of_reach(results["precision"])
            screen.line(text, mark="[red]✗[/] ")
    except KeyboardInterrupt:
        _interrupted(screen)
    except Exception as err:
        status, text = 1, _explain(err, screen, folder)
    if sweep:
        outcome.ended(sweep, status, text)
    elif status:
        sys.exit(status)
    return value


def start(cfg: DictConfig, folder: Path, screen: Screen) -> dict[str, Any]:
    """Run the chain, in one process per device."""
    _rename(cfg, screen)
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    settings = layer_bits.flat(resolved)
    _keep_secrets_out(settings, folder)
    for check in checks:
        check(settings)
    store_limit.limit()  # an invalid OBLIQ_CACHE_LIMIT fails before the run, not after it
    screen.line(_name(cfg), mark="[bold]obliq[/]  ")
    _announce_example(settings, folder, screen)
    with screen.busy("starting"), memory.importing():  # torch and Lightning take seconds
        about = _about(settings, folder)
    processes = settings["machine"].get("devices")
    if not isinstance(processes, int) or processes < 2:
        return chain(launch.ProcessRank(), settings, about, screen)
    launch.spawn(processes, member, settings, about)
    written = folder / ("results.json" if settings["objective"] is None else "objective.json")
    results: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return results


def _rename(cfg: DictConfig, screen: Screen) -> None:
    """Rename settings that the user's own files have under an old name."""

    def update(old: str, name: str, value: Any) -> None:
        with open_dict(cfg):
            if value is not None:
                OmegaConf.update(cfg, name, value)
            parent, _, last = old.rpartition(".")
            if old != name:
                del (OmegaConf.select(cfg, parent) if parent else cfg)[last]

    typed = [item.lstrip("+~").partition("=")[0] for item in HydraConfig.get().overrides.task]
    for note in renamed.move(typed, lambda old: OmegaConf.select(cfg, old), update):
        screen.line(note, style="yellow")


def chain(
    place: launch.ProcessRank, settings: Mapping[str, Any], about: Mapping[str, Any], screen: Screen
) -> dict[str, Any]:
    """Build everything from the settings, then run the chain, in this process."""
    cfg = OmegaConf.create(dict(settings))
    with screen.busy("starting"), memory.importing():
        from pipelines import ptq
        from pipelines.chain import RunInfo
        from pipelines.machine import ranks
        from pipelines.store import users as store_users
        from pipelines.store.store import Store
        from pipelines.tracking import NullTracker

        memory.freeze_gc("stages")
        stages, machine = built(settings)
        tracker = NullTracker() if place.rank else instantiate(cfg.tracking, _convert_="all")
    root = _store()
    with store_users.using(root), ranks.process_group(place, machine.accelerator) as group:
        machine = replace(machine, screen=screen, ranks=group)
        store = Store(root, screen.line, group)
        results = ptq.run(stages, store, machine, tracker, RunInfo(**about))
        if not place.rank:
            store_limit.enforce(root, screen.line)
        return results


def composed(groups: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a Python program, which gives the network and the data itself.

    Args:
        groups: `group=name` words, as on the command line.
        values: single settings by their dotted names; groups by theirs.

    Raises:
        ValueError: a name or a value is unknown; the message suggests the nearest ones.
    """
    files = {name for name in values if (overrides.CONF / name).is_dir()}
    words = [*groups, *(f"{name}={values[name]}" for name in sorted(files))]
    overrides.check(words)
    hydra_state = GlobalHydra.instance().hydra  # of a program that uses Hydra itself
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(overrides.CONF), version_base="1.3"):
            own = [f"{group}={choices.EXAMPLE}" for group in choices.GROUPS]
            cfg = compose("run", [*own, *words])
    finally:
        GlobalHydra.instance().hydra = hydra_state
    for name, value in values.items():
        if name in files:
            continue
        overrides.check([f"{name}=null"])
        parent = OmegaConf.select(cfg, name.rpartition(".")[0]) if "." in name else cfg
        if not isinstance(parent, DictConfig) or name.rpartition(".")[2] not in parent:
            near = list(map(str, parent)) if isinstance(parent, DictConfig) else []
            raise ValueError(overrides.unknown_setting(name, near))
        inner = OmegaConf.select(cfg, name)
        if isinstance(value, Mapping) and isinstance(inner, DictConfig) and len(inner):
            raise ValueError(f"{name} holds several settings: give them as {name}.NAME")
        OmegaConf.update(cfg, name, value, force_add=isinstance(value, Mapping))
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return layer_bits.flat(settings)


def built(settings: Mapping[str, Any], **given: Any) -> tuple[Chain, Machine]:
    """The chain, with the `given` stages in the place of those of the settings, and the machine."""
    from pipelines.chain import Chain
    from pipelines.cli import typecheck

    typecheck.complete(settings, Chain)
    typecheck.check(settings)
    cfg = OmegaConf.create(dict(settings))
    names = [name for name in Chain.__dataclass_fields__ if name not in given]
    stages = {name: instantiate(cfg[name], _convert_="all") for name in names}
    return Chain(**stages, **given), instantiate(cfg.machine, _convert_="all")


def model(settings: Mapping[str, Any]) -> Any:
    """The float `Network` that the `model` settings of a run stand for."""
    from pipelines.store.store import Store

    source = instantiate(OmegaConf.create(dict(settings)), _convert_="all")
    source.check()
    return source.load(Store(_store()))


def member(
    place: launch.ProcessRank, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Run `chain` as one of several processes; the parent process reports its failure."""
    try:
        with pipes.forgiving():
            chain(place, settings, about, Screen.nowhere() if place.rank else Screen())
    except Exception as err:
        trace = "".join(traceback.format_exception(err))
        raise launch.MemberError(_message(err), trace) from err


def _store() -> Path:
    """The folder of the store."""
    return Path(os.environ.get("OBLIQ_CACHE") or user_cache_path("obliq")).expanduser()


def _keep_secrets_out(settings: dict[str, Any], folder: Path) -> None:
    """Reject secrets among the settings, and delete the copies that Hydra has already saved."""
    try:
        secrets.check_settings(settings)
    except ValueError:
        shutil.rmtree(folder / "config", ignore_errors=True)
        if _is_sweep():
            Path(HydraConfig.get().sweep.dir, "multirun.yaml").unlink(missing_ok=True)
        raise


def _announce_example(settings: Mapping[str, Any], folder: Path, screen: Screen) -> None:
    config, given = HydraConfig.get(), command_line.given()
    chosen = config.runtime.choices
    others = {chosen["model"], chosen["data"]} != {choices.EXAMPLE}
    if choices.nothing_chosen(given) and not others and not (_is_sweep() and config.job.num):
        for line in example.about(given, settings, chosen["method"], folder):
            screen.line(f"  {line}", style="dim")


def _name(settings: Mapping[str, Any] | DictConfig) -> str:
    config = HydraConfig.get()
    names = config.runtime.choices
    more = naming.swept(command_line.given(), config.overrides.task, names)
    return " ".join([naming.name(settings, names), *more])


def _about(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments of `chain.RunInfo`: names of the run, and the head of results.json."""
    from pipelines.reproducing import provenance, source

    config = HydraConfig.get()
    chosen = config.runtime.choices
    names = {
        "experiment": chosen.get("experiment"),
        "data": chosen["data"],
        "method": chosen["method"],
        "weight_bits": settings["bits"],
        "act_bits": settings["act_bits"],
        "versions": provenance.versions(),
        "source": source.record(folder),
        "command": list(config.overrides.task),
        "config_dir": _config_dir(),
        "settings": {key: value for key, value in settings.items() if key != "tracking"},
    }
    tags = settings["tags"] if isinstance(settings["tags"], list) else [settings["tags"]]
    return {
        "folder": folder,
        "about": names,
        "config": settings,
        "name": _name(settings),
        "group": Path(config.sweep.dir).name if _is_sweep() else None,
        "tags": [*tags, chosen["method"], chosen["data"], naming.width(settings)],
        "job_type": naming.job_type(settings),
        "seed": settings["seed"],
    }


def _is_sweep() -> bool:
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def _config_dir() -> str | None:
    """The folder given by --config-dir."""
    sources = HydraConfig.get().runtime.config_sources
    return next((str(x.path) for x in sources if x.provider == "command-line"), None)


def _interrupted(screen: Screen) -> None:
    screen.line(
        "Finished stages are stored; run the same command to resume.",
        mark="[yellow]Interrupted.[/] ",
    )
    sys.exit(launch.INTERRUPTED)


def _explain(err: BaseException, screen: Screen, folder: Path | None = None) -> str:
    """Print the error message and write the traceback to error.log; returns the message."""
    text = _message(err)
    screen.line(text, mark="[red]✗[/] ")
    if folder is None:
        return text
    trace = err.trace if isinstance(err, launch.MemberError) else ""
    try:
        trace = secrets.redact(trace or "".join(traceback.format_exception(err)))
        (folder / "error.log").write_text(trace, encoding="utf-8")
        screen.line(f"  details: {folder / 'error.log'}", style="dim")
    except OSError:  # most likely the error that was just printed
        pass
    return text


def _message(err: BaseException) -> str:
    if isinstance(err, launch.MemberError):  # worded in the process that failed
        return secrets.redact(str(err))
    return errors.message(err, command_line.given())


if __name__ == "__main__":
    main()
