"""Start runs, wait for them, and tell whether two of them have come to the same."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from tests.faults import child
from tests.faults.child import Request
from tests.faults.points import Moment
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
TIMES = {"speedup", "took"}  # beside "...seconds..."
NAMES = {"cached", "output_dir", "command", "source"}  # whose code may be worked on meanwhile


@dataclass
class Started:
    """A run in its own process."""

    request: Request
    process: object

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def has_ended(self) -> bool:
        """Whether it is over."""
        return state(self.pid) in ("Z", "")

    def wait(self) -> Ended:
        """Until it has ended, however."""
        if isinstance(self.process, subprocess.Popen):
            return Ended(self.request, self.process.wait(PATIENCE))
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"{self.request} does not end"
        return Ended(self.request, self.process.exitcode)

    def wait_until_stopped(self) -> bool:
        """Until it has stopped itself; False where it ended before."""
        return until(lambda: state(self.pid) == "T", self._goes_on)

    def wait_for_text(self, words: str) -> bool:
        """Until it has printed this; False where it ended before."""
        path = Path(self.request.text)
        return until(lambda: path.exists() and words in path.read_text(), self._goes_on)

    def _goes_on(self) -> bool:
        return not self.has_ended()


@dataclass(frozen=True)
class Ended:
    """What a run has left behind."""

    request: Request
    status: int

    @cached_property
    def text(self) -> str:
        """What it printed."""
        return Path(self.request.text).read_text()

    @cached_property
    def trace(self) -> list[tuple[str, int, str]]:
        """(where, number, what) of its moments."""
        lines = Path(self.request.trace).read_text().splitlines()
        rows = (line.split("\t") for line in lines)
        return [(where, int(number), what) for where, number, what in rows]

    @property
    def results(self) -> dict | None:
        """Content of results.json, if it is there."""
        path = Path(self.request.folder) / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    @cached_property
    def outcome(self) -> str:
        """Everything it has computed, but for times: equal texts, equal results."""
        assert self.status == 0, f"status {self.status}:\n{self.text}"
        weights = (Path(self.request.folder) / "model.safetensors").read_bytes()
        found = {**self.results, "weights": hashlib.sha256(weights).hexdigest()}
        return json.dumps(untimed(found), indent=1, sort_keys=True)


@dataclass
class Runs:
    """Starts runs of one command.

    Attributes:
        base: folder for outputs and traces.
        words: of the command.
        fresh: in a new interpreter; else forked from one that has everything imported.
    """

    base: Path
    words: tuple[str, ...]
    fresh: bool = False

    def __post_init__(self) -> None:
        self._numbers = count()
        self._started: list[Started] = []
        self.context = multiprocessing.get_context("forkserver")
        tracked = ["wandb.sdk.launch"] if "tracking=offline" in self.words else []
        self.context.set_forkserver_preload([child.__name__, *tracked])

    def start(
        self, store: Path, folder: Path | None = None, at: Moment | None = None, do: str = "kill"
    ) -> Started:
        """Start one, in a new output folder unless one is given."""
        number = next(self._numbers)
        self.base.mkdir(parents=True, exist_ok=True)
        request = Request(
            self.words,
            str(store),
            str(folder or self.base / f"out{number}"),
            str(self.base / f"text{number}"),
            str(self.base / f"trace{number}"),
            at,
            do,
        )
        if self.fresh:
            command = [sys.executable, "-m", child.__name__, request.json()]
            process = subprocess.Popen(command, cwd=ROOT)
        else:
            process = self.context.Process(target=child.serve, args=(request,))
            process.start()
        self._started.append(Started(request, process))
        return self._started[-1]

    def close(self) -> None:
        """End all that still go on, or are stopped."""
        for run in self._started:
            run.process.kill()
            run.wait()

    def run(self, store: Path, **more) -> Ended:
        """Start one and wait for its end."""
        return self.start(store, **more).wait()


def state(pid: int) -> str:
    """Letter of a process's state, "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def untimed(value):
    """JSON without whatever a clock has measured, and where and by what it was written."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in TIMES | NAMES and "seconds" not in k}
        return {k: untimed(v) for k, v in kept.items()}
    return [untimed(v) for v in value] if isinstance(value, list) else value
