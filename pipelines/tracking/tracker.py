"""The interface of trackers, and a tracker that records nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tracker(Protocol):
    """Receives the events of a run, in the order of the methods."""

    @property
    def where(self) -> str:
        """Folder or URL of the tracked run; "" if there is none."""

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
        """Start a run, or resume the one that the same call started in the same folder.

        Args:
            config: plain, resolved settings.
            name: display name.
            folder: output folder of the run.
            group: group of related runs, such as a sweep.
            tags: tags for filtering runs.
            job_type: kind of run.
            origin: code, versions and machine; recorded next to the settings.
        """

    def stage(self, name: str, seconds: float, cached: bool) -> None:
        """Record that a stage has ended, or that its result came from the store."""

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record the layer table, a row per layer (`results["layers"]`)."""

    def plots(self, images: Mapping[str, Figure | Path]) -> None:
        """Record figures and image files by name."""

    def calibration(self, name: str, record: Mapping[str, Any]) -> None:
        """Record the calibration (`lineage.calibration`)."""

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """Record the quantized weights, a file or folder that stays in place."""

    def evaluation(self, name: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Record the evaluation of the weights: results.json and related files."""

    def summary(self, results: Mapping[str, Any]) -> None:
        """Record all scalars of `results` under the names of `flatten`."""

    def finish(self) -> None:
        """Mark the run as finished."""

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed with `error`."""


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
        origin: Mapping[str, Any],
    ) -> None: ...

    def stage(self, name: str, seconds: float, cached: bool) -> None: ...

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def plots(self, images: Mapping[str, Figure | Path]) -> None: ...

    def calibration(self, name: str, record: Mapping[str, Any]) -> None: ...

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None: ...

    def evaluation(self, name: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None: ...

    def summary(self, results: Mapping[str, Any]) -> None: ...

    def finish(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...
