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
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from pipelines import jobs, words
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


def main() -> None:
    """The console script; its exit status is not 0 when a job failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # its errors come here instead of being printed
    screen, jobs.sweep = Screen(), None
    if sys.argv[1:2] == ["store"]:
        from pipelines import store_command

        sys.exit(store_command.main(sys.argv[2:], _store()))
    try:
        words.check(sys.argv[1:])
        job()
    except KeyboardInterrupt:
        _interrupted(screen)
    except Exception as err:
        if isinstance(err, OSError) and not isinstance(
            err, MissingConfigException
        ):  # of Hydra: the output folder and its config/ are made first
            err.add_note(
                "set hydra.run.dir, with -m hydra.sweep.dir, to a folder that can be written"
            )
        _explain(err, screen)
        jobs.finish(screen)
        sys.exit(2)
    if status := jobs.finish(screen):
        sys.exit(status)


@hydra.main(version_base="1.3", config_path=str(words.CONF), config_name="run")
def job(cfg: DictConfig) -> float | None:
    """One run, in whichever process. Returns its objective, for sweepers, if it has one.

    Raises:
        SystemExit: it failed. In a sweep the others go on: jobs.finish tells.
    """
    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)
    name = _name(cfg)
    sweep = Path(config.sweep.dir) if _is_sweep(config) else None
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
    """Build everything from the configuration, then run the chain."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    screen.line(_name(cfg), mark="[bold]obliq[/]  ")
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


def _is_sweep(config: Any) -> bool:
    return bool(config.mode and config.mode.name == "MULTIRUN")


def _name(settings: Mapping[str, Any] | DictConfig) -> str:
    choices = HydraConfig.get().runtime.choices
    title = choices.get("experiment") or "-".join(
        dict.fromkeys([choices["model"], choices["data"]])
    )
    name = f"{title}-{choices['method']}-{_width(settings)}"
    return f"{name}-s{settings['seed']}" if settings["seed"] else name


def _width(settings: Mapping[str, Any] | DictConfig) -> str:
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
    sweep = Path(config.sweep.dir).name if _is_sweep(config) else None
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


def _explain(err: BaseException, screen: Screen, folder: Path | None = None) -> str:
    """What, where, what to do, on one screen; the traceback goes to a file. Returns the text."""
    notes = [f"({note})" for note in getattr(_cause(err), "__notes__", ())]
    text = " ".join([_text(_cause(err)), *notes])
    screen.line(text, mark="[red]✗[/] ")
    if folder is None:
        return text
    try:
        (folder / "error.log").write_text("".join(traceback.format_exception(err)))
        screen.line(f"  details: {folder / 'error.log'}", style="dim")
    except OSError:  # then that is what went wrong, most likely
        pass
    return text


def _cause(err: BaseException) -> BaseException:
    """What made Hydra give up, where it was Hydra that did."""
    while isinstance(err, InstantiationException) and err.__cause__ is not None:
        err = err.__cause__
    return err


def _text(err: BaseException) -> str:
    if extra := words.missing_extra(str(err)):
        return extra
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
