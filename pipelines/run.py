"""The command line: compose the configuration, build every stage, start the chain.

The only file that imports Hydra. `obliq ...` and `python -m pipelines.run ...` are the same.
`obliq store`, `obliq reproduce` and `obliq table` are not for Hydra: see `store/command.py`,
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
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from platformdirs import user_cache_path

from pipelines.cli import naming, overrides, secrets
from pipelines.machine import interruption, launch, memory
from pipelines.machine.screen import Screen
from pipelines.store import limit as store_limit
from pipelines.sweeps import jobs

UNREACHED = 3  # exit status: no configuration meets precision.target
GIVEN = "OBLIQ_GIVEN"  # environment: the words as typed, for jobs in other processes

checks: list[Callable[[dict[str, Any]], None]] = []  # what must accept the settings of a job


def main() -> None:
    """The console script; its exit status is not 0 when a job failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # its errors come here instead of being printed
    jobs.sweep = None
    checks.clear()
    if sys.argv[1:2] == ["store"]:
        from pipelines.store import command as store_command

        sys.exit(store_command.main(sys.argv[2:], _store()))
    if sys.argv[1:2] == ["reproduce"]:
        from pipelines.reproducing import command as reproduce_command

        sys.exit(reproduce_command.main(sys.argv[2:], _store(), _rerun))
    if sys.argv[1:2] == ["table"]:
        from pipelines.comparing import table

        sys.exit(table.main(sys.argv[2:]))
    with interruption.terminable():
        status = _jobs(Screen())
    if status:
        sys.exit(status)


def _jobs(screen: Screen) -> int:
    """Run what sys.argv says; the exit status."""
    try:
        secrets.check_words(sys.argv[1:])
        overrides.check(sys.argv[1:])
        os.environ[GIVEN] = json.dumps(sys.argv[1:])
        job()
    except KeyboardInterrupt:
        _interrupted(screen)
    except Exception as err:
        if isinstance(err, OSError) and not isinstance(
            err, MissingConfigException
        ):  # of Hydra: the output folder and its config/ are made first
            err.add_note(
                "the output folder: set hydra.run.dir, with -m hydra.sweep.dir, to one that can "
                "be written"
            )
        _explain(err, screen)
        jobs.finish(screen)
        return 2
    return jobs.finish(screen)


def _rerun(command: Sequence[str], store: Path, check: Callable[[dict[str, Any]], None]) -> int:
    """The exit status of these words on another store; `check` is shown the settings first."""
    sys.argv = [sys.argv[0], *command]
    os.environ["OBLIQ_CACHE"] = str(store)
    checks[:] = [check]
    try:
        return _jobs(Screen())
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


@hydra.main(version_base="1.3", config_path=str(overrides.CONF), config_name="run")
def job(cfg: DictConfig) -> float | None:
    """One run, in whichever process. Returns its objective, for sweepers, if it has one.

    Raises:
        SystemExit: it failed. In a sweep the others go on: jobs.finish tells.
    """
    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)
    name = _name(cfg)
    sweep = Path(config.sweep.dir) if _is_sweep() else None
    number = config.job.num if sweep else 0
    alone = sweep is None or config.launcher._target_.endswith(".BasicLauncher")
    screen = Screen() if alone else jobs.screen(f"{number} {name}")
    outcome = jobs.Outcome(number, name, str(folder))
    if sweep:
        with suppress(OSError):  # of an earlier sweep into the same folder
            (folder / "error.log").unlink(missing_ok=True)
        outcome.write(sweep)
    status, text, value = 0, "", None
    try:
        results = start(cfg, folder, screen)
        (folder / "error.log").unlink(missing_ok=True)  # of the same command, before
        value = (results.get("objective") or {}).get("value")
        if (results.get("precision") or {}).get("reached") is False:
            status, text = UNREACHED, _missed(results["precision"])
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
    """Run the chain, in as many processes as the machine has devices."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    _keep_secrets_out(settings, folder)
    for check in checks:
        check(settings)
    store_limit.limit()  # said wrong, it is said now
    screen.line(_name(cfg), mark="[bold]obliq[/]  ")
    with screen.busy("starting"), memory.importing():  # torch and Lightning take seconds
        about = _about(settings, folder)
    processes = settings["machine"].get("devices")
    if not isinstance(processes, int) or processes < 2:
        return chain(launch.ProcessRank(), settings, about, screen)
    launch.together(processes, member, settings, about)
    written = folder / ("results.json" if settings["objective"] is None else "objective.json")
    results: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return results


def chain(
    place: launch.ProcessRank, settings: Mapping[str, Any], about: Mapping[str, Any], screen: Screen
) -> dict[str, Any]:
    """Build everything from the settings, then run the chain, in this process."""
    cfg = OmegaConf.create(dict(settings))
    with screen.busy("starting"), memory.importing():
        from pipelines import ptq
        from pipelines.chain import Chain, Run
        from pipelines.cli import typecheck
        from pipelines.machine import ranks
        from pipelines.store import users as store_users
        from pipelines.store.store import Store
        from pipelines.tracking import NullTracker

        memory.settle()
        typecheck.complete(settings, Chain)
        typecheck.check(settings)
        stages = Chain.__dataclass_fields__
        built = Chain(**{name: instantiate(cfg[name], _convert_="all") for name in stages})
        machine = instantiate(cfg.machine, _convert_="all")
        tracker = NullTracker() if place.rank else instantiate(cfg.tracking, _convert_="all")
    root = _store()
    with store_users.using(root), ranks.joined(place, machine.accelerator) as among:
        machine = replace(machine, screen=screen, ranks=among)
        store = Store(root, screen.line, among)
        results = ptq.run(built, store, machine, tracker, Run(**about))
        if not place.rank:
            store_limit.enforce(root, screen.line)
        return results


def member(
    place: launch.ProcessRank, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """`chain` in one of several processes; what it fails of is told by the one that watches."""
    try:
        chain(place, settings, about, Screen.nowhere() if place.rank else Screen())
    except Exception as err:
        trace = "".join(traceback.format_exception(err))
        raise launch.MemberError(_told(err), trace) from err


def _store() -> Path:
    """The folder of stored results."""
    return Path(os.environ.get("OBLIQ_CACHE") or user_cache_path("obliq")).expanduser()


def _keep_secrets_out(settings: dict[str, Any], folder: Path) -> None:
    """Refuse settings that are secrets, and remove what Hydra has saved of them by now."""
    try:
        secrets.check_settings(settings)
    except ValueError:
        shutil.rmtree(folder / "config", ignore_errors=True)
        if _is_sweep():
            Path(HydraConfig.get().sweep.dir, "multirun.yaml").unlink(missing_ok=True)
        raise


def _name(settings: Mapping[str, Any] | DictConfig) -> str:
    config = HydraConfig.get()
    choices = config.runtime.choices
    given = json.loads(os.environ.get(GIVEN, "[]"))
    return " ".join(
        [
            naming.name(settings, choices),
            *naming.swept(given, config.overrides.task, choices),
        ]
    )


def _about(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fields of `chain.Run`: names of the run, and the head of results.json."""
    from pipelines.reproducing import provenance, source

    config = HydraConfig.get()
    choices = config.runtime.choices
    names = {
        "experiment": choices.get("experiment"),
        "data": choices["data"],
        "method": choices["method"],
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
        "tags": [*tags, choices["method"], choices["data"], naming.width(settings)],
        "job_type": naming.job_type(settings),
        "seed": settings["seed"],
    }


def _is_sweep() -> bool:
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def _missed(found: Mapping[str, Any]) -> str:
    """What to tell where no bits that may be chosen keep enough."""
    kept, wanted = found["value"], found["target"] * found["float"]
    return (
        f"precision.target={found['target']} is out of reach: on the calibration images "
        f"{found['measure']} {wanted:.2f} % is asked for, and the best of the "
        f"{found['evaluations']} configurations tried has {kept:.2f} %. That one was taken. Lower "
        f"the target, or allow more bits than precision.choices={found['widths']}"
    )


def _config_dir() -> str | None:
    """The folder that --config-dir has named."""
    sources = HydraConfig.get().runtime.config_sources
    return next((str(x.path) for x in sources if x.provider == "command-line"), None)


def _interrupted(screen: Screen) -> None:
    screen.line(
        "What is finished is stored; the same command goes on.", mark="[yellow]Interrupted.[/] "
    )
    sys.exit(launch.INTERRUPTED)


def _explain(err: BaseException, screen: Screen, folder: Path | None = None) -> str:
    """What, where, what to do, on one screen; the traceback goes to a file. Returns the text."""
    text = _told(err)
    screen.line(text, mark="[red]✗[/] ")
    if folder is None:
        return text
    trace = err.trace if isinstance(err, launch.MemberError) else ""
    try:
        trace = secrets.redact(trace or "".join(traceback.format_exception(err)))
        (folder / "error.log").write_text(trace, encoding="utf-8")
        screen.line(f"  details: {folder / 'error.log'}", style="dim")
    except OSError:  # then that is what went wrong, most likely
        pass
    return text


def _told(err: BaseException) -> str:
    notes = [f"({note})" for note in getattr(_cause(err), "__notes__", ())]
    return secrets.redact(" ".join([_text(_cause(err)), *notes]))


def _cause(err: BaseException) -> BaseException:
    """What made Hydra give up, where it was Hydra that did."""
    while isinstance(err, InstantiationException) and err.__cause__ is not None:
        err = err.__cause__
    return err


def _text(err: BaseException) -> str:
    if extra := overrides.missing_extra(str(err)):
        return extra
    if isinstance(err, MissingMandatoryValue):
        return overrides.missing(str(err.full_key))
    reason = err.__cause__
    if isinstance(reason, OmegaConfBaseException) and reason.full_key:
        parent = reason.parent_node
        known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        return overrides.unknown_setting(str(reason.full_key), known)
    if isinstance(err, InterpolationKeyError) and isinstance(err.parent_node, DictConfig):
        key = str(err).split("'")[1]
        above = OmegaConf.select(err.parent_node._get_root(), key.rpartition(".")[0])
        return overrides.unknown_setting(key, [str(k) for k in above or ()])
    if isinstance(err, OmegaConfBaseException):
        return str(err).splitlines()[0]
    if isinstance(err, OSError):
        named = f": {err.filename}" if err.filename else ""
        return f"{err.strerror or err}{named}"
    told = isinstance(err, ValueError | launch.MemberError)
    if told or type(err).__module__.startswith("hydra"):
        return str(err)
    return f"{type(err).__name__}: {err}"


if __name__ == "__main__":
    main()
