"""Hyperparameter search: Optuna proposes settings, and jobs measure their objective.

Proposals depend only on the seed and the measured objectives, so that a restarted search finds its
first trials in the store and resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.machine import clock

Choice = str | int | float | bool | None
Settings = Mapping[str, Choice]


@dataclass(frozen=True)
class Range:
    """Range of a numeric setting.

    Attributes:
        low, high: bounds, both included.
        log: sample on a logarithmic scale.
        step: step between values; None for a continuous range.
        whole: integers only.
    """

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool


Space = Mapping[str, Range | Sequence[Choice]]


@dataclass(frozen=True)
class Search:
    """Settings of a search.

    Attributes:
        trials: total number of trials.
        startup: number of random trials at the start; the first trial has the default settings.
        batch: number of trials proposed together.
        seed: seed for the proposals.
    """

    trials: int
    startup: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("trials", "startup", "batch"):
            setting = "max_batch_size" if name == "batch" else name
            if getattr(self, name) < 1:
                raise ValueError(
                    f"hydra.sweeper.{setting}={getattr(self, name)} must be a whole number, "
                    "at least 1"
                )

    def run(
        self,
        space: Space,
        defaults: Settings,
        measure: Callable[[Sequence[Settings]], Sequence[float | None]],
    ) -> list[Trial]:
        """Minimize the objective; `measure` returns those of a batch, None for a failed trial.

        Raises:
            ValueError: Optuna is not installed, or there is nothing to search.
        """
        if not space:
            raise ValueError(
                "nothing to search: set a range for some settings, such as hparams=damping or "
                "'damping=tag(log,interval(0.001,0.1))'"
            )
        try:
            import optuna
        except ImportError as err:
            raise ValueError("hparams= needs Optuna: pip install 'obliq[optuna]'") from err
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study()
        known = {
            name: _distribution(optuna.distributions, values) for name, values in space.items()
        }
        if all(name in defaults and _within(space[name], defaults[name]) for name in space):
            study.enqueue_trial({name: defaults[name] for name in space})
        found: list[Trial] = []
        while len(found) < self.trials:
            study.sampler = optuna.samplers.TPESampler(
                seed=self.seed + len(found),  # otherwise a batch would repeat the previous one
                n_startup_trials=self.startup,
                multivariate=True,
                constant_liar=True,  # pending trials of a batch count as bad
            )
            count = min(self.batch, self.trials - len(found))
            asked = [study.ask(known) for _ in range(count)]
            start = clock.seconds()
            values = measure([trial.params for trial in asked])
            seconds = (clock.seconds() - start) / count
            for trial, value in zip(asked, values, strict=True):
                good = value is not None and math.isfinite(value)
                state = optuna.trial.TrialState
                study.tell(trial, value if good else None, state.COMPLETE if good else state.FAIL)
                found.append(
                    Trial(trial.number, dict(trial.params), value if good else None, seconds)
                )
        return found


@dataclass(frozen=True)
class Trial:
    """A trial of a search.

    Attributes:
        number: number of its job.
        settings: the proposed settings.
        value: the objective; None if the job failed.
        seconds: its share of the time of its batch.
    """

    number: int
    settings: Settings
    value: float | None
    seconds: float


def _within(values: Range | Sequence[Choice], value: Choice) -> bool:
    if isinstance(values, Range):
        return isinstance(value, int | float) and values.low <= value <= values.high
    return value in values


def _distribution(kinds: Any, values: Range | Sequence[Choice]) -> Any:
    """Convert to a distribution; `kinds` is the module `optuna.distributions`."""
    if not isinstance(values, Range):
        return kinds.CategoricalDistribution(list(values))
    if values.whole:
        step = int(values.step or 1)
        return kinds.IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
    return kinds.FloatDistribution(values.low, values.high, log=values.log, step=values.step)
