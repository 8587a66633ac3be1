"""The command line: compose the configuration, build every stage, start the chain.

The only file that imports Hydra. `obliq ...` and `python -m pipelines.run ...` are the same.
`obliq store ...` is not for Hydra: see `store_command`.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from platformdirs import user_cache_path

from pipelines import words
from pipelines.screen import Screen

if TYPE_CHECKING:
    from pipelines.ptq import Run

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "transformers",
    "numpy",
    "hydra-core",
    "wandb",
    "obliq",
)
INTERRUPTED = 130  # exit status, as shells have it
UNREACHED = 3  # exit status: no configuration meets precision.target

failures: list[int] = []  # exit statuses of this process's jobs that did not succeed


def main() -> None:
    """The console script; its exit status is not 0 when a job failed."""
    failures.clear()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # its errors come here instead of being printed
    screen = Screen()
    if sys.argv[1:2] == ["store"]:
        from pipelines import store_command

        sys.exit(store_command.main(sys.argv[2:], _store()))
    try:
        words.check(sys.argv[1:])
        job()
    except KeyboardInterrupt:
        _interrupted(screen)
    except Exception as err:
        if isinstance(err, OSError):  # of Hydra: the output folder and its config/ are made first
            err.add_note(
                "the output folder: set hydra.run.dir, with -m hydra.sweep.dir, to one that can "
                "be written"
            )
        _explain(err, screen)
        sys.exit(2)
    if failures:
        sys.exit(failures[0])


@hydra.main(version_base="1.3", config_path=str(words.CONF), config_name="run")
def job(cfg: DictConfig) -> float | None:
    """One run. Returns its drop in points, for sweepers; None where it failed."""
    screen = Screen()
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        results = start(cfg, folder, screen)
        (folder / "error.log").unlink(missing_ok=True)  # of the same command, before
        if (results["precision"] or {}).get("reached") is False:
            screen.line(_missed(results["precision"]), mark="[red]✗[/] ")
            failures.append(UNREACHED)
        return float(results["drop"]["points"])
    except KeyboardInterrupt:
        _interrupted(screen)
    except Exception as err:
        _explain(err, screen, folder)
        failures.append(1)
    return None


def start(cfg: DictConfig, folder: Path, screen: Screen) -> dict[str, Any]:
    """Build everything from the configuration, then run the chain."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    screen.line(_name(settings), mark="[bold]obliq[/]  ")
    with screen.busy("starting"):  # torch, timm and Lightning take seconds to import
        from pipelines import ptq, store_users, typecheck
        from pipelines.store import Store

        typecheck.check(settings)
        stages = ptq.Chain.__dataclass_fields__
        chain = ptq.Chain(**{name: instantiate(cfg[name], _convert_="all") for name in stages})
        machine = replace(instantiate(cfg.machine, _convert_="all"), screen=screen)
        tracker = instantiate(cfg.tracking, _convert_="all")
        about = _about(settings, folder)
    root = _store()
    with store_users.using(root):
        return ptq.run(chain, Store(root, screen.line), machine, tracker, about)


def _store() -> Path:
    """The folder of stored results."""
    return Path(os.environ.get("OBLIQ_CACHE") or user_cache_path("obliq")).expanduser()


def _name(settings: dict[str, Any]) -> str:
    choices = HydraConfig.get().runtime.choices
    title = choices.get("experiment") or "-".join(
        dict.fromkeys([choices["model"], choices["data"]])
    )
    name = f"{title}-{choices['method']}-{_width(settings)}"
    return f"{name}-s{settings['seed']}" if settings["seed"] else name


def _width(settings: dict[str, Any]) -> str:
    """w4, or w4a8; mixed99.9 for a target of 99.9 %."""
    activations = f"a{settings['act_bits']}" if settings["act_bits"] is not None else ""
    target = settings["precision"].get("target")
    return f"w{settings['bits']}{activations}" if target is None else f"mixed{100 * target:g}"


def _about(settings: dict[str, Any], folder: Path) -> Run:
    """Names of the run, and the head of results.json."""
    from pipelines.ptq import Run

    config = HydraConfig.get()
    choices = config.runtime.choices
    names = {
        "experiment": choices.get("experiment"),
        "data": choices["data"],
        "method": choices["method"],
        "weight_bits": settings["bits"],
        "act_bits": settings["act_bits"],
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "command": list(config.overrides.task),
    }
    sweep = Path(config.sweep.dir).name if config.mode and config.mode.name == "MULTIRUN" else None
    tags = settings["tags"] if isinstance(settings["tags"], list) else [settings["tags"]]
    return Run(
        folder=folder,
        about=names,
        config=settings,
        name=_name(settings),
        group=sweep,
        tags=[*tags, choices["method"], choices["data"], _width(settings)],
        seed=settings["seed"],
    )


def _missed(found: Mapping[str, Any]) -> str:
    """What to tell where no bits that may be chosen keep enough."""
    kept, wanted = found["value"], found["target"] * found["float"]
    return (
        f"precision.target={found['target']} is out of reach: on the calibration images "
        f"{found['measure']} {wanted:.2f} % is asked for, and the best of the "
        f"{found['evaluations']} configurations tried has {kept:.2f} %. That one was taken. Lower "
        f"the target, or allow more bits than precision.choices={found['widths']}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"


def _interrupted(screen: Screen) -> None:
    screen.line(
        "What is finished is stored; the same command goes on.", mark="[yellow]Interrupted.[/] "
    )
    sys.exit(INTERRUPTED)


def _explain(err: BaseException, screen: Screen, folder: Path | None = None) -> None:
    """What, where, what to do, on one screen; the traceback goes to a file."""
    notes = [f"({note})" for note in getattr(_cause(err), "__notes__", ())]
    screen.line(" ".join([_text(_cause(err)), *notes]), mark="[red]✗[/] ")
    if folder is None:
        return
    try:
        (folder / "error.log").write_text("".join(traceback.format_exception(err)))
        screen.line(f"  details: {folder / 'error.log'}", style="dim")
    except OSError:  # then that is what went wrong, most likely
        pass


def _cause(err: BaseException) -> BaseException:
    """What made Hydra give up, where it was Hydra that did."""
    while isinstance(err, InstantiationException) and err.__cause__ is not None:
        err = err.__cause__
    return err


def _text(err: BaseException) -> str:
    if isinstance(err, MissingMandatoryValue):
        return words.missing(str(err.full_key))
    reason = err.__cause__
    if isinstance(reason, OmegaConfBaseException) and reason.full_key:
        parent = reason.parent_node
        known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        return words.unknown_setting(str(reason.full_key), known)
    if isinstance(err, InterpolationKeyError) and isinstance(err.parent_node, DictConfig):
        key = str(err).split("'")[1]
        above = OmegaConf.select(err.parent_node._get_root(), key.rpartition(".")[0])
        return words.unknown_setting(key, [str(k) for k in above or ()])
    if isinstance(err, OmegaConfBaseException):
        return str(err).splitlines()[0]
    if isinstance(err, OSError):
        named = f": {err.filename}" if err.filename else ""
        return f"{err.strerror or err}{named}"
    known_kind = isinstance(err, ValueError) or type(err).__module__.startswith("hydra")
    return str(err) if known_kind else f"{type(err).__name__}: {err}"


if __name__ == "__main__":
    main()
