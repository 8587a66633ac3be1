"""Hydra launcher: run every job of a sweep as a Ray task.

hydra-ray-launcher 1.2.2 does the same, but requires cloudpickle 2 and the AWS libraries.
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
    """Runs `n_jobs` jobs in parallel.

    Attributes:
        address: address of a cluster; None: start one on this machine and stop it after the sweep.
        n_jobs: number of parallel jobs; each requests an equal share of the cluster's CPUs and
            GPUs.
    """

    def __init__(self, address: str | None, n_jobs: int) -> None:
        if n_jobs < 1:
            raise ValueError(f"hydra.launcher.n_jobs={n_jobs} must be at least 1")
        self.address, self.n_jobs = address, n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before the first launch."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs and wait for them."""
        try:
            import ray
        except ImportError as err:
            raise ValueError(
                "hydra/launcher=ray needs Ray: pip install 'obliq[ray]', or use "
                "hydra/launcher=joblib or basic"
            ) from err
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        started = not ray.is_initialized()
        if started:
            local = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
            options = {} if self.address else local
            os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine is slow
            ray.init(address=self.address, logging_level=logging.ERROR, **options)
        try:
            total = ray.cluster_resources()
            share = {name: _share(total.get(key, 0), self.n_jobs) for name, key in RESOURCES}
            remote = ray.remote(max_retries=0, **share)(_run)
            tasks = [
                remote.remote(*self._job(initial_job_idx + i, overrides))
                for i, overrides in enumerate(job_overrides)
            ]
            return [ray.get(task) for task in tasks]
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


def _share(total: float, n_jobs: int) -> float:
    """CPUs or GPUs of one job; Ray accepts fractions only below one."""
    each = total / n_jobs
    return float(int(each)) if each >= 1 else each


def _run(
    folder: str, context: HydraContext, task: TaskFunction, config: DictConfig, state: Any
) -> JobReturn:
    """Run one job in a Ray worker."""
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
