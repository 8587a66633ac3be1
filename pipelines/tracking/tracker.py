"""What the pipeline tells about a run, and a tracker that records nothing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        origin: Mapping[str, Any],
    ) -> None:
        """Begin a run, or go on with the one that the same call began in the same folder.

        Args:
            config: plain, resolved settings.
            name: for people.
            folder: the run's output folder.
            group: runs that belong together, a sweep say.
            tags: to find the run by.
            job_type: what kind of run it is.
            origin: code, versions and machine: told with the settings, but none of them.
        """

    def stage(self, name: str, seconds: float, cached: bool) -> None:
        """A stage has ended (or its result came from the store)."""

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The layer table, a row per layer (`results["layers"]`)."""

    def plots(self, images: Mapping[str, Figure | Path]) -> None:
        """What there is to look at, by name: figures, and files of pictures."""

    def calibration(self, name: str, record: Mapping[str, Any]) -> None:
        """What the weights are made from (`lineage.calibration`)."""

    def weights(self, path: Path, name: str, metadata: Mapping[str, Any]) -> None:
        """The quantized weights: a file or a folder that will stay where it is."""

    def evaluation(self, name: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """What the weights were found to be worth: results.json and what belongs to it."""

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
