"""Where a run is recorded beside its own folder: Weights & Biases, or nowhere.

The only file that imports wandb, and only once a run has started. A tracker never ends a
computation: whatever wandb raises is reported once, and `results.json` holds the same values. In a
job of several processes only the first one may start a tracker.

Values are written when they are known, since the summary that wandb writes at the end of an offline
run is lost with a process that dies: https://github.com/wandb/wandb/issues/8114
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pipelines.reporting import layers_csv

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2  # how often wandb's process writes to the run's file (its own default: 15)

Scalar = float | int | bool | str


class Tracker(Protocol):
    """What the pipeline tells about a run, in the order of the methods."""

    @property
    def where(self) -> str:
        """Folder or address of the run, "" if there is none."""

    def start(
        self,
        config: Mapping[str, Any],
        name: str,
        folder: Path,
        group: str | None,
        tags: Sequence[str],
        job_type: str,
    ) -> None:
        """Begin a run: `config` is plain and resolved, `folder` the run's output folder."""

    def stage(self, name: str, seconds: float, cached: bool) -> None:
        """A stage has ended (or its result came from the store)."""

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The layer table, a row per layer (`results["layers"]`)."""

    def plots(self, images: Mapping[str, Path]) -> None:
        """PNG files by name."""

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """The quantized weights: a file or a folder that will stay where it is."""

    def summary(self, results: Mapping[str, Any]) -> None:
        """Every single value of `results`, by the names of `flatten`."""

    def finish(self) -> None:
        """The run succeeded."""

    def fail(self, error: BaseException) -> None:
        """The run died of `error`; it is marked as failed."""


@dataclass(frozen=True)
class NullTracker:
    """Records nothing."""

    where: str = field(default="", init=False)

    def start(
        self,
        config: Mapping[str, Any],
        name: str,
        folder: Path,
        group: str | None,
        tags: Sequence[str],
        job_type: str,
    ) -> None: ...

    def stage(self, name: str, seconds: float, cached: bool) -> None: ...

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def plots(self, images: Mapping[str, Path]) -> None: ...

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None: ...

    def summary(self, results: Mapping[str, Any]) -> None: ...

    def finish(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...


@dataclass
class WandbTracker:
    """Records a run with Weights & Biases.

    Attributes:
        project: W&B project.
        entity: user or team; None is the user's default.
        mode: "offline" writes into the run's folder; "online" falls back to that when the server
            does not answer or no API key is configured. Never prompts.
        group: overrides the group that `start` is given.
        tags: added to those that `start` is given.
        connect_seconds: limit of each step of connecting, online only.
        upload_seconds: limit of the upload at the end, online only; the rest stays on disk.
    """

    project: str
    entity: str | None
    mode: Literal["offline", "online"]
    group: str | None
    tags: Sequence[str]
    connect_seconds: float
    upload_seconds: float
    _run: Any = field(default=None, init=False, repr=False)
    _folder: str = field(default="", init=False, repr=False)
    _where: str = field(default="", init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise ValueError(
                f"tracking.mode={self.mode!r} must be 'offline' or 'online'; "
                "tracking=none turns tracking off"
            )

    @property
    def where(self) -> str:
        """Address of an online run, folder of an offline one, "" without a run."""
        return self._where

    def start(
        self,
        config: Mapping[str, Any],
        name: str,
        folder: Path,
        group: str | None,
        tags: Sequence[str],
        job_type: str,
    ) -> None:
        """Begin a run under `folder`/wandb; see `Tracker.start`."""
        self._run, self._where, self._warned = None, "", False
        settings = {
            "project": self.project,
            "entity": self.entity,
            "name": name,
            "dir": str(folder),
            "group": self.group or group,
            "tags": list(dict.fromkeys([*self.tags, *tags])),
            "job_type": job_type,
            "config": dict(config),
        }
        try:
            import wandb

            logging.raiseExceptions = False  # of its log, which a full disk takes no more of
            wandb.setup(wandb.Settings(silent=True))
            folder.mkdir(parents=True, exist_ok=True)
            problem = self._connect(wandb, settings) if self.mode == "online" else None
            if self._run is None:
                self._run = self._init(wandb, settings, "offline")
            if problem:
                log.warning(
                    "W&B cannot be reached (%s): this run is kept offline. Upload it later: "
                    "wandb sync %s",
                    problem,
                    self._folder,
                )
        except Exception as error:
            self._warn(error)

    def stage(self, name: str, seconds: float, cached: bool) -> None:
        """Log `seconds/<name>` and `cached/<name>`."""
        self._send(lambda run: run.log({f"seconds/{name}": seconds, f"cached/{name}": cached}))

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the table `layers`."""

        def send(run: Any) -> None:
            import wandb

            flat = [layers_csv.flat(row) for row in rows]
            columns = list(dict.fromkeys(key for row in flat for key in row))
            data = [[row.get(column) for column in columns] for row in flat]
            table = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
            run.log({"layers": table})

        self._send(send)

    def plots(self, images: Mapping[str, Path]) -> None:
        """Log `plots/<name>`."""

        def send(run: Any) -> None:
            import wandb

            run.log({f"plots/{name}": wandb.Image(str(path)) for name, path in images.items()})

        self._send(send)

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """Log an artifact of type "model"; its files are referred to, not copied."""

        def send(run: Any) -> None:
            import wandb

            clean = re.sub(r"[^A-Za-z0-9_.-]", "-", name)
            artifact = wandb.Artifact(clean, type="model", metadata=dict(metadata))
            add = artifact.add_dir if path.is_dir() else artifact.add_file
            add(str(path), policy="immutable")
            run.log_artifact(artifact)

        self._send(send)

    def summary(self, results: Mapping[str, Any]) -> None:
        """Write `flatten(results)` to the summary, and what is a number to the history too."""
        values = flatten(results)
        numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
        self._send(lambda run: run.log(numbers))
        self._send(lambda run: run.summary.update(values))
        self._send(_settle)

    def finish(self) -> None:
        """Close the run as finished."""
        self._close(0)

    def fail(self, error: BaseException) -> None:
        """Close the run as failed, with the error's text in the summary as `error`."""
        text = f"{type(error).__name__}: {error}"
        self._send(lambda run: run.summary.update({"error": text}))
        self._close(1)

    def _connect(self, wandb: Any, settings: Mapping[str, Any]) -> str | None:
        """Begin the run online; the reason in a few words if that is impossible."""
        try:
            if not wandb.login(prompt=False, verify=True, timeout=round(self.connect_seconds)):
                return "no API key: `wandb login` sets one"
            self._run = self._init(wandb, settings, "online")
        except Exception as error:
            return " ".join(str(error).split())[:120]
        return None

    def _init(self, wandb: Any, settings: Mapping[str, Any], mode: str) -> Any:
        run = wandb.init(
            **settings,
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_stats=True,  # the run's timings are results: nothing samples beside them
                x_transaction_log_flush_interval=FLUSH_SECONDS,
                init_timeout=self.connect_seconds,
                login_timeout=self.connect_seconds,
                finish_timeout=self.upload_seconds,
                finish_timeout_raises=True,
            ),
        )
        folder = str(Path(run.dir).parent)
        self._folder, self._where = folder, folder if mode == "offline" else str(run.url)
        return run

    def _send(self, action: Callable[[Any], object]) -> None:
        if self._run is not None:
            try:
                action(self._run)
            except Exception as error:
                self._warn(error)

    def _close(self, exit_code: int) -> None:
        self._send(lambda run: run.finish(exit_code=exit_code))

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        text = " ".join(str(error).split())[:200]
        hint = f" What it has so far: wandb sync {self._folder}" if self._run is not None else ""
        log.warning("W&B failed, the run goes on without it: %s.%s", text, hint)


def _settle(run: Any) -> None:
    """Wait until what was sent is in the run's file, so that it outlives this process."""
    run.summary.keys()  # a round trip: wandb's own process has everything that was sent before
    time.sleep(2 * FLUSH_SECONDS)


def flatten(results: Mapping[str, Any]) -> dict[str, Scalar]:
    """Single values of nested results, by path.

    An interval becomes two values; other lists (the layers) and missing values are left out.

    >>> flatten({"speedup": 9.5, "drop": {"points": 0.4, "ci95": [-0.1, 0.9]}, "layers": [{}]})
    {'speedup': 9.5, 'drop/points': 0.4, 'drop/ci95_lo': -0.1, 'drop/ci95_hi': 0.9}
    """
    flat: dict[str, Scalar] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": leaf for name, leaf in flatten(value).items()}
        elif key == "ci95" and isinstance(value, Sequence) and len(value) == 2:
            flat |= {"ci95_lo": value[0], "ci95_hi": value[1]}
        elif isinstance(value, float | int | bool | str):
            flat[key] = value
    return flat
