"""Hydra sweeper: hyperparameter search with Optuna.

hydra-optuna-sweeper 1.3 requires Optuna 2 (of 2022), and 1.4 an unreleased Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pipelines.machine.screen import Screen
from pipelines.sweeps import study, study_table


class OptunaSweeper(Sweeper):
    """Minimises the jobs' return value; see study.Search for the settings."""

    def __init__(
        self, trials: int, startup: int, max_batch_size: int, seed: int, params: Mapping[str, Any]
    ) -> None:
        self.search = study.Search(trials, startup, max_batch_size, seed)
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before the sweep."""
        self.composed = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)

    def sweep(self, arguments: list[str]) -> list[study.Trial]:
        """Run the search; overrides on the command line replace those of `params`."""
        if self.composed.get("objective") is None:
            raise ValueError("a search needs an objective: set objective=kl (or objective=loss)")
        params = [f"{name}={value}" for name, value in self.params.items()]
        parsed = self.parser.parse_overrides([*params, *arguments])
        overrides = {o.get_key_element(): o for o in parsed}
        space = {k: _values(o) for k, o in overrides.items() if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in overrides.values() if not o.is_sweep_override()]
        defaults = {name: _default(self.composed, name) for name in space}
        folder = Path(str(self.composed.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        launcher = self.launcher
        assert launcher is not None  # Hydra calls `setup` first
        screen, done = Screen(), 0

        def measure(batch: Sequence[study.Settings]) -> list[float | None]:
            nonlocal done
            proposed = [[f"{k}={_text(v)}" for k, v in settings.items()] for settings in batch]
            for number, own in enumerate(proposed, start=done):
                screen.line(f"trial {number}: {' '.join(own)}", mark="[bold]obliq[/]  ")
            jobs = [[*fixed, *own] for own in proposed]
            returns = launcher.launch(jobs, initial_job_idx=done)
            done += len(jobs)
            return [job.return_value for job in returns]

        trials = self.search.run(space, defaults, measure)
        about = {"seed": self.search.seed, "startup": self.search.startup, "arguments": fixed}
        study_table.write(trials, about, folder / "study.json")
        study_table.show(trials, folder / "study.json", screen)
        return trials


def _default(composed: DictConfig, name: str) -> Any:
    """Default of a setting; if it is null, the value of `max_<setting>`."""
    parent, _, last = name.rpartition(".")
    value = OmegaConf.select(composed, name)
    return OmegaConf.select(composed, f"{parent}.max_{last}") if value is None else value


def _values(override: Override) -> study.Range | list[study.Choice]:
    """The search space of a sweep override.

    Raises:
        ValueError: the kind of sweep is not supported (glob).
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None  # the parser requires both
        whole = isinstance(low, int) and isinstance(high, int)
        return study.Range(low, high, "log" in value.tags, None, whole)
    if isinstance(value, RangeSweep) and not value.shuffle:
        start, stop, step = value.start, value.stop, value.step
        assert start is not None and stop is not None
        whole = all(isinstance(number, int) for number in (start, stop, step))
        count = -(-(stop - start) // step)  # `stop` is exclusive
        return study.Range(start, start + (count - 1) * step, False, step, whole)
    known = override.is_choice_sweep() or isinstance(value, RangeSweep)
    if known and (choices := [_plain(v) for v in override.sweep_iterator()]):
        return choices
    raise ValueError(
        f"{override.input_line}: not supported in a search. Use choice(a,b), interval(a,b), "
        "range(a,b,step) or tag(log,interval(a,b))"
    )


def _plain(value: Any) -> study.Choice:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(value: study.Choice) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
