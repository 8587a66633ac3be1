"""What every fault is tried on, and what counts as having recovered from it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.faults import stored
from tests.faults.runs import Ended, Runs

SMALL = (
    "experiment=digits",
    "model.train.epochs=6",
    "method=rtn",
    "calibrate.images=96",
    "calibrate.batch_size=16",
    "act_bits=8",
    "baseline.budget=0",  # so that no figure hangs on how long something took
    "report.heatmaps=0",
    "machine.threads=1",
    "tracking=none",
)
WHOLE = (  # every stage there is
    *(word for word in SMALL if word.split("=")[0] not in ("method", "tracking")),
    "tracking=offline",
    "method=eptq",
    "method.init=rtn",
    "method.held_out=32",
    "schedule=cpu",
    "cpu_steps=25",
    "precision=mixed",
    "precision.cost=size",
    "precision.choices=[2,4]",
    "precision.target=0.98",
    "precision.perturbations.images=32",
)
RESUMING = {  # stages that go on inside, and batches of theirs that may run again after a fault
    "Calibrate": 1,
    "allocate/MeasureChanges": 1,
    "TrainRounding": 1,
}


@dataclass
class Unbroken:
    """A run that nothing happens to: what others are compared with.

    Attributes:
        runs: of its command.
        folder: for stores.
        seed: of what is random in a trial.
    """

    runs: Runs
    folder: Path
    seed: int = 0

    @property
    def store(self) -> Path:
        """Where everything is stored; to be copied, not changed."""
        return self.folder / "unbroken"

    @cached_property
    def ended(self) -> Ended:
        """The run."""
        shutil.rmtree(self.store, ignore_errors=True)
        return self.runs.run(self.store)

    @cached_property
    def tensors(self) -> dict[str, str]:
        """Digests of all that it stored."""
        assert self.ended.status == 0, self.ended.text
        return stored.tensors(self.store)

    @cached_property
    def moments(self) -> dict[str, int]:
        """How many moments it has, by where."""
        assert self.ended.status == 0, self.ended.text
        return dict(Counter(where for where, _, _ in self.ended.trace))

    def random(self, what: str) -> random.Random:
        """Draws of one trial."""
        return random.Random(f"{self.seed} {what}")

    def new_store(self, name: str, *stages: str) -> Path:
        """A copy of these stages' results, "*": all; a store that is not there for none."""
        assert self.ended.status == 0, self.ended.text
        store = self.folder / name
        shutil.rmtree(store, ignore_errors=True)
        for stage in sorted(p.name for p in self.store.iterdir()) if "*" in stages else stages:
            shutil.copytree(self.store / stage, store / stage)
        return store

    def differs(self, ended: Ended) -> list[str]:
        """What differs from this run's results, in a few words each."""
        if ended.status:
            return [f"status {ended.status}: {ended.text[-500:]}"]
        return [] if ended.outcome == self.ended.outcome else ["other results"]

    def wrong(self, ended: Ended, store: Path) -> list[str]:
        """What differs from this run, in results or in the store."""
        found = self.differs(ended)
        if ended.status:
            return found
        there = stored.tensors(store)
        found += [f"other tensors in {k}" for k, v in self.tensors.items() if there.get(k) != v]
        whole = stored.whole(store)
        found += [f"{k} is not whole" for k in self.tensors if k not in whole]
        return found + [f"left behind: {path}" for path in stored.leftovers(store)]


@dataclass
class Line:
    """A line of the table.

    Attributes:
        fault: what was done.
        trials: how often.
        wrong: what was not as in the unbroken run, by trial.
        repeated: what was computed again at most.
        skipped: why it could not be tried.
    """

    fault: str
    trials: int = 0
    wrong: list[str] = field(default_factory=list)
    repeated: str = ""
    skipped: str = ""

    def add(self, name: str, found: list[str]) -> None:
        """Count a trial."""
        self.trials += 1
        if found:
            self.wrong.append(f"{name}: {'; '.join(found)}")

    def __str__(self) -> str:
        if self.skipped:
            return f"| {self.fault} | skipped: {self.skipped} | | | |"
        good = self.trials - len(self.wrong)
        return f"| {self.fault} | {self.trials} | {good} | {len(self.wrong)} | {self.repeated} |"


def begun(*ended: Ended) -> Counter[str]:
    """How often each stage was begun, by where."""
    return Counter(where for e in ended for where, _, what in e.trace if what == "begin")


def batches(where: str, *ended: Ended) -> int:
    """How many batches went through a stage."""
    return sum(w == where and what == "batch" for e in ended for w, _, what in e.trace)
