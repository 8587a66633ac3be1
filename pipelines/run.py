"""The command line: compose the configuration, build every stage, start the chain.

The only file that imports Hydra. `obliq ...` and `python -m pipelines.run ...` are the same.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from platformdirs import user_cache_path

from pipelines import words
from pipelines.machine import Machine
from pipelines.ptq import Chain, Run, run
from pipelines.screen import Screen
from pipelines.store import Store
from pipelines.tracking import Tracker

STAGES = tuple(Chain.__dataclass_fields__)
PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "hydra-core", "wandb", "obliq")
INTERRUPTED = 130  # exit status, as shells have it

failures: list[int] = []  # exit statuses of this process's jobs that did not succeed


def main() -> None:
    """The console script; its exit status is not 0 when a job failed."""
    try:
        words.check(sys.argv[1:])
    except ValueError as err:
        _explain(err, Screen())
        sys.exit(2)
    job()
    if failures:
        sys.exit(failures[0])


@hydra.main(version_base="1.3", config_path="../conf", config_name="run")
def job(cfg: DictConfig) -> float | None:
    """One run. Returns its drop in points, for sweepers; None where it failed."""
    screen = Screen()
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        results = start(cfg, folder, screen)
        return float(results["drop"]["points"])
    except KeyboardInterrupt:
        screen.line("[yellow]Interrupted.[/] What is finished is stored; the same command goes on.")
        sys.exit(INTERRUPTED)
    except Exception as err:
        _explain(err, screen, folder)
        failures.append(1)
        return None


def start(cfg: DictConfig, folder: Path, screen: Screen) -> dict[str, Any]:
    """Build everything from the configuration, then run the chain."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    if settings["act_bits"] is not None:
        raise ValueError(
            f"act_bits={settings['act_bits']}: activations cannot be quantized by these methods; "
            "leave act_bits=null"
        )
    chain = Chain(**{name: instantiate(cfg[name], _convert_="all") for name in STAGES})
    machine: Machine = replace(instantiate(cfg.machine, _convert_="all"), screen=screen)
    tracker: Tracker = instantiate(cfg.tracking, _convert_="all")
    root = Path(os.environ.get("OBLIQ_CACHE") or user_cache_path("obliq")).expanduser()
    about = _about(settings, folder)
    screen.line(f"[bold]obliq[/]  {about.name}")
    return run(chain, Store(root, screen.line), machine, tracker, about)


def _about(settings: dict[str, Any], folder: Path) -> Run:
    """Names of the run, and the head of results.json."""
    config = HydraConfig.get()
    choices = config.runtime.choices
    experiment = choices.get("experiment")
    names = {
        "experiment": experiment,
        "data": choices["data"],
        "method": choices["method"],
        "weight_bits": settings["bits"],
        "act_bits": settings["act_bits"],
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "command": list(config.overrides.task),
    }
    sweep = Path(config.sweep.dir).name if config.mode and config.mode.name == "MULTIRUN" else None
    title = experiment or f"{choices['model']}-{choices['data']}"
    name = f"{title}-{choices['method']}-w{settings['bits']}"
    return Run(
        folder=folder,
        about=names,
        config=settings,
        name=f"{name}-s{settings['seed']}" if settings["seed"] else name,
        group=sweep,
        tags=[*settings["tags"], choices["method"], choices["data"], f"w{settings['bits']}"],
        seed=settings["seed"],
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"


def _explain(err: BaseException, screen: Screen, folder: Path | None = None) -> None:
    """What, where, what to do, on one screen; the traceback goes to a file."""
    cause = err
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    notes = [f"({note})" for note in (*getattr(err, "__notes__", ()),)]
    kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
    text = str(cause) if not isinstance(cause, OSError) else cause.strerror or str(cause)
    if isinstance(cause, OmegaConfBaseException):
        text = text.splitlines()[0]
    screen.console.print("[red]✗[/]", f"{kind}{text}", *notes, soft_wrap=True, markup=True)
    if folder is None:
        return
    try:
        (folder / "error.log").write_text("".join(traceback.format_exception(err)))
        screen.line(f"  [dim]details: {folder / 'error.log'}[/]")
    except OSError:
        screen.console.print_exception(max_frames=4)


if __name__ == "__main__":
    main()
