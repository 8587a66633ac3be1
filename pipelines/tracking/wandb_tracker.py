"""Tracking with Weights & Biases.

The only file that imports wandb, and only once a run has started. A tracker never stops a run:
errors of wandb are logged once, and `results.json` holds the same values. With several processes,
only rank 0 may start a tracker.

Values are written as soon as they are known, since the summary that wandb writes at the end of an
offline run is lost if the process dies: https://github.com/wandb/wandb/issues/8114
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.cli.secrets import redact
from pipelines.machine import clock
from pipelines.reporting import layers_csv
from pipelines.tracking import run_id
from pipelines.tracking.flat import flatten
from pipelines.tracking.lineage import artifact_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("pipelines.tracking")

FLUSH_SECONDS = 0.2  # flush interval of wandb's process (default: 15)
LOCAL_SECONDS = 120.0  # timeout of wandb's process, generous for a busy machine


@dataclass
class WandbTracker:
    """Records a run with Weights & Biases.

    Attributes:
        project: W&B project.
        entity: user or team; None for the user's default.
        mode: "offline" writes to the run's folder; "online" falls back to it if the server does
            not answer or there is no API key. Never prompts. WANDB_MODE=disabled in the environment
            records nothing, and WANDB_MODE=offline turns "online" into that.
        group, job_type: replace those passed to `start`.
        tags: added to those passed to `start`.
        notes: free text about the run.
        connect_seconds: timeout of each step of connecting, online only.
        upload_seconds: timeout of the upload at the end, online only; the rest stays on disk.
    """

    project: str
    entity: str | None
    mode: Literal["offline", "online"]
    group: str | None
    job_type: str | None
    tags: Sequence[str]
    notes: str | None
    connect_seconds: float
    upload_seconds: float
    _run: Any = field(default=None, init=False, repr=False)
    _folder: str = field(default="", init=False, repr=False)
    _where: str = field(default="", init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)
    _again: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise ValueError(
                f"tracking.mode={self.mode!r} must be 'offline' or 'online'; "
                "tracking=none turns tracking off"
            )

    @property
    def where(self) -> str:
        """URL of an online run, folder of an offline run, "" without a run."""
        return self._where

    def start(
        self,
        config: Mapping[str, Any],
        name: str,
        folder: Path,
        group: str | None,
        tags: Sequence[str],
        job_type: str,
        origin: Mapping[str, Any],
    ) -> None:
        """Start or resume a run in `folder`/wandb; see `Tracker.start`."""
        self._run, self._where, self._warned = None, "", False
        asked = os.environ.get("WANDB_MODE", "").strip().lower()
        if asked == "disabled":
            return
        mode = "offline" if asked == "offline" else self.mode
        try:
            import wandb

            logging.raiseExceptions = False  # errors of wandb's own log, for example on a full disk
            wandb.setup(wandb.Settings(silent=True, x_service_wait=LOCAL_SECONDS))
            own = {key: value for key, value in config.items() if key != "tracking"}
            where = {"project": self.project, "entity": self.entity}
            identity, self._again = run_id.of(folder, {"name": name, **where, **own})
            settings = {
                **where,
                "id": identity,
                "resume": "allow",
                "name": name,
                "notes": self.notes,
                "dir": str(folder),
                "group": self.group or group,
                "tags": list(dict.fromkeys([*self.tags, *tags])),
                "job_type": self.job_type or job_type,
                "config": {**config, **origin},
            }
            problem = self._connect(wandb, settings) if mode == "online" else None
            if self._run is None:
                self._run = self._init(wandb, settings, "offline")
            if problem:
                log.warning(
                    "W&B cannot be reached (%s): this run is tracked offline. Upload it later: "
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

    def plots(self, images: Mapping[str, Figure | Path]) -> None:
        """Log `plots/<name>`."""

        def send(run: Any) -> None:
            import wandb

            from pipelines.reporting import canvas

            shown = {
                name: str(image) if isinstance(image, Path) else canvas.pixels(image)
                for name, image in images.items()
            }
            run.log({f"plots/{name}": wandb.Image(image) for name, image in shown.items()})

        self._send(send)

    def calibration(self, name: str, record: Mapping[str, Any]) -> None:
        """Mark an artifact of type "calibration" with the record as used by the run."""

        def send(run: Any) -> None:
            file = self._own_file("calibration.json")
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            counts = {k: len(v) if isinstance(v, list) else v for k, v in record.items()}
            artifact = _artifact(name, "calibration", counts, [file])
            _record(run, artifact, made_here=False, used_here=True)

        self._send(send)

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """Log an artifact of type "model" and mark it as used; files are referenced, not copied."""
        self._send(
            lambda run: _record(
                run, _artifact(name, "model", metadata, [path]), made_here=True, used_here=True
            )
        )

    def evaluation(self, name: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Log an artifact of type "evaluation" with copies of the files.

        Copies, since repeating the command overwrites the files.
        """

        def send(run: Any) -> None:
            copies = [Path(shutil.copyfile(f, self._own_file(f.name))) for f in files]
            artifact = _artifact(name, "evaluation", metadata, copies)
            _record(run, artifact, made_here=True, used_here=False)

        self._send(send)

    def summary(self, results: Mapping[str, Any]) -> None:
        """Write `flatten(results)` to the summary, and its numbers to the history too."""
        values = flatten(results)
        numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
        self._send(lambda run: run.log(numbers))
        self._send(lambda run: run.summary.update(values))
        self._send(_settle)

    def finish(self) -> None:
        """Close the run as finished."""
        if self._again:  # clear the error of an earlier process
            self._send(lambda run: run.summary.update({"error": None}))
        self._close(0)

    def fail(self, error: BaseException) -> None:
        """Close the run as failed, with the error's text in the summary as `error`."""
        text = redact(f"{type(error).__name__}: {error}")
        self._send(lambda run: run.summary.update({"error": text}))
        self._close(1)

    def _connect(self, wandb: Any, settings: Mapping[str, Any]) -> str | None:
        """Start the run online; returns a short reason if that fails."""
        try:
            if not wandb.login(prompt=False, verify=True, timeout=round(self.connect_seconds)):
                return "no API key: run `wandb login`"
            self._run = self._init(wandb, settings, "online")
        except Exception as error:
            return redact(" ".join(str(error).split()))[:120]
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
                x_disable_stats=True,  # sampling would disturb the timings, which are results
                x_transaction_log_flush_interval=FLUSH_SECONDS,
                **self._limits(mode),
            ),
        )
        folder = str(Path(run.dir).parent)
        self._folder, self._where = folder, folder if mode == "offline" else str(run.url)
        return run

    def _limits(self, mode: str) -> dict[str, Any]:
        """Timeouts of wandb; offline it only waits for its own process."""
        if mode == "offline":
            return {"init_timeout": LOCAL_SECONDS}
        return {
            "init_timeout": self.connect_seconds,
            "login_timeout": self.connect_seconds,
            "finish_timeout": self.upload_seconds,
            "finish_timeout_raises": True,
        }

    def _own_file(self, name: str) -> Path:
        """A path in the folder of this W&B run, where files stay unchanged until the upload."""
        folder = Path(self._folder) / "artifacts"
        folder.mkdir(exist_ok=True)
        return folder / name

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
        text = redact(" ".join(str(error).split()))[:200]
        hint = (
            f" Upload what was recorded: wandb sync {self._folder}" if self._run is not None else ""
        )
        log.warning("W&B failed, the run continues without it: %s.%s", text, hint)


def _settle(run: Any) -> None:
    """Wait until everything sent is in the run's file and survives the end of this process."""
    run.summary.keys()  # a round trip: wandb's process has received everything
    clock.sleep(2 * FLUSH_SECONDS)


def _artifact(name: str, kind: str, metadata: Mapping[str, Any], paths: Sequence[Path]) -> Any:
    """An artifact that references files and the content of folders."""
    import wandb

    artifact = wandb.Artifact(artifact_name(name), type=kind, metadata=dict(metadata))
    for path in paths:
        add = artifact.add_dir if path.is_dir() else artifact.add_file
        add(str(path), policy="immutable")
    return artifact


def _record(run: Any, artifact: Any, made_here: bool, used_here: bool) -> None:
    """Record that a run has created an artifact, used it, or both.

    `Run.use_artifact` refuses new artifacts offline, although `wandb sync` supports them: hence the
    private method. If wandb lacks it, the artifact is logged as created here.
    """
    log_artifact = getattr(run, "_log_artifact", None)
    if log_artifact is None or not used_here:
        run.log_artifact(artifact)
    else:
        log_artifact(artifact, is_user_created=not made_here, use_after_commit=True)
