"""Hydra sweeper: a search over settings by Optuna.

hydra-optuna-sweeper 1.3 wants Optuna 2 (of 2022), and 1.4 a Hydra that is not released.
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
    """Minimises what the jobs return; see study.Search for the settings."""

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
        self.jobs = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)

    def sweep(self, arguments: list[str]) -> list[study.Trial]:
        """Search; words of the command line come after, and so instead of, `params`."""
        if self.composed.get("objective") is None:
            raise ValueError("a search needs objective=kl (or objective=loss)")
        given = [f"{name}={value}" for name, value in self.params.items()]
        words = {o.get_key_element(): o for o in self.parser.parse_overrides([*given, *arguments])}
        space = {k: _values(o) for k, o in words.items() if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in words.values() if not o.is_sweep_override()]
        defaults = {name: _default(self.composed, name) for name in space}
        folder = Path(str(self.composed.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        screen, done = Screen(), 0

        def measure(batch: Sequence[study.Settings]) -> list[float | None]:
            nonlocal done
            jobs = [[*fixed, *(f"{k}={_word(v)}" for k, v in s.items())] for s in batch]
            for number, settings in enumerate(batch, start=done):
                words = " ".join(f"{k}={_word(v)}" for k, v in settings.items())
                screen.line(f"trial {number}: {words}", mark="[bold]obliq[/]  ")
            returns = self.jobs.launch(jobs, initial_job_idx=done)
            done += len(jobs)
            return [job.return_value for job in returns]

        trials = self.search.run(space, defaults, measure)
        about = {"seed": self.search.seed, "startup": self.search.startup, "arguments": fixed}
        study_table.write(trials, about, folder / "study.json")
        study_table.show(trials, folder / "study.json", screen)
        return trials


def _default(composed: DictConfig, name: str) -> Any:
    """What a setting is without the search; of one that is null, what it then may be at most."""
    parent, _, last = name.rpartition(".")
    value = OmegaConf.select(composed, name)
    return OmegaConf.select(composed, f"{parent}.max_{last}") if value is None else value


def _values(override: Override) -> study.Range | list[study.Choice]:
    """What a sweep word allows.

    Raises:
        ValueError: it is one that a search knows nothing about (glob).
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None  # the parser wants both
        whole = isinstance(low, int) and isinstance(high, int)
        return study.Range(low, high, "log" in value.tags, None, whole)
    if isinstance(value, RangeSweep) and not value.shuffle:
        start, stop, step = value.start, value.stop, value.step
        assert start is not None and stop is not None
        whole = all(isinstance(number, int) for number in (start, stop, step))
        count = -(-(stop - start) // step)  # the stop itself is not in
        return study.Range(start, start + (count - 1) * step, False, step, whole)
    known = override.is_choice_sweep() or isinstance(value, RangeSweep)
    if known and (choices := [_plain(v) for v in override.sweep_iterator()]):
        return choices
    raise ValueError(
        f"{override.input_line}: a search takes choice(a,b), interval(a,b), range(a,b,step) or "
        "tag(log,interval(a,b))"
    )


def _plain(value: Any) -> study.Choice:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _word(value: study.Choice) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
