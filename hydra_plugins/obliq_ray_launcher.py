"""Hydra launcher: every job of a sweep is a Ray task.

hydra-ray-launcher 1.2.2 does the same, but wants cloudpickle 2 and the libraries of AWS.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

OBJECT_STORE = 2**27  # bytes: jobs exchange files, not objects


class RayLauncher(Launcher):
    """Runs `at_once` jobs side by side.

    Attributes:
        address: of a cluster; None starts one here, which ends with the sweep.
        at_once: jobs; each one asks for its part of the cluster's cores and GPUs.
    """

    def __init__(self, address: str | None, at_once: int) -> None:
        if at_once < 1:
            raise ValueError(f"hydra.launcher.at_once={at_once} must be at least 1")
        self.address, self.at_once = address, at_once

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before the first launch."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; returns when the last one has ended."""
        try:
            import ray
        except ImportError as err:
            raise ValueError(
                "hydra/launcher=ray needs Ray: pip install 'obliq[ray]', or take "
                "hydra/launcher=joblib or basic"
            ) from err
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        started = not ray.is_initialized()
        if started:
            own = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
            more = {} if self.address else own
            os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine is slow
            # without an address Ray would join whatever cluster was started on this machine last
            ray.init(address=self.address or "local", logging_level=logging.ERROR, **more)
        try:
            total = ray.cluster_resources()
            share = {name: _share(total.get(key, 0), self.at_once) for name, key in RESOURCES}
            remote = ray.remote(max_retries=0, **share)(_run)
            waiting = [
                remote.remote(*self._job(initial_job_idx + i, overrides))
                for i, overrides in enumerate(job_overrides)
            ]
            return [ray.get(job) for job in waiting]
        finally:
            if started:
                ray.shutdown()

    def _job(self, number: int, overrides: Sequence[str]) -> tuple[Any, ...]:
        composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = f"{composed.hydra.job.name}_{number}"
            composed.hydra.job.num = number
        return os.getcwd(), self.context, self.task, composed, Singleton.get_state()


RESOURCES = (("num_cpus", "CPU"), ("num_gpus", "GPU"))


def _share(total: float, at_once: int) -> float:
    """Of one job; Ray takes fractions below one."""
    each = total / at_once
    return float(int(each)) if each >= 1 else each


def _run(
    folder: str, context: HydraContext, task: TaskFunction, config: DictConfig, state: Any
) -> JobReturn:
    """In a process of Ray's."""
    os.chdir(folder)
    Singleton.set_state(state)
    setup_globals()
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
