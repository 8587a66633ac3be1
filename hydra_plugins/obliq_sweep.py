"""What a sweep needs of Hydra beside its launcher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pipelines.cli import layer_bits
from pipelines.machine.screen import Screen
from pipelines.sweeps import jobs


class SweepStarts(Callback):
    """Before the first job of a sweep: remember its folder, divide the cores between its jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the process that starts the sweep; `pipelines.run.main` finishes it."""
        _open_layers(config.hydra.sweeper)
        launcher: Any = OmegaConf.to_container(config.hydra.launcher)
        batch = config.hydra.sweeper.get("max_batch_size")
        threads = jobs.threads_each(launcher, batch, jobs.cores())
        if threads is not None:  # inherited by the processes of the jobs
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, str(threads))
        folder = Path(str(config.hydra.sweep.dir))
        jobs.begin(folder)
        if "submitit" in launcher["_target_"]:
            Screen().line(f"what the jobs print: {folder / '.submitit'}", mark="[bold]obliq[/]  ")


def _open_layers(sweeper: DictConfig) -> None:
    """Let `params` of a file name single layers as the command line does."""
    params = sweeper.get("params") or {}
    with read_write(sweeper), open_dict(sweeper):
        for name in list(params):
            (word,) = layer_bits.added([f"{name}="])
            if word != f"{name}=":
                params[word.removesuffix("=")] = params.pop(name)
