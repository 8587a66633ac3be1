"""Hydra callback at the start of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pipelines.cli import layer_bits, renamed
from pipelines.machine.screen import Screen
from pipelines.sweeps import jobs


class SweepStarts(Callback):
    """Record the sweep's folder and divide the cores between its jobs, before the first one."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called in the process that starts the sweep; `pipelines.run.main` finishes it."""
        _rename(config.hydra.sweeper)
        launcher: Any = OmegaConf.to_container(config.hydra.launcher)
        batch = config.hydra.sweeper.get("max_batch_size")
        threads = jobs.threads_each(launcher, batch, jobs.cores())
        if threads is not None:  # inherited by the job processes
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, str(threads))
        folder = Path(str(config.hydra.sweep.dir))
        jobs.begin(folder)
        if "submitit" in launcher["_target_"]:
            Screen().line(f"output of the jobs: {folder / '.submitit'}", mark="[bold]obliq[/]  ")


def _rename(sweeper: DictConfig) -> None:
    """Rename `params` from a user's own file as the command line would."""
    params = sweeper.get("params") or {}
    with read_write(sweeper), open_dict(sweeper):
        for name in list(params):
            new, value = renamed.setting(str(name), str(params[name]))
            if new != name:
                Screen().line(f"{name} is now called {new}", style="yellow")
            (override,) = layer_bits.force_added([f"{new}="])
            if (key := override.removesuffix("=")) != name or value != str(params[name]):
                del params[name]
                params[key] = value
