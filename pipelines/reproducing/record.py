"""The command line and settings recorded in a results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cli import renamed
from pipelines.comparing.settings import ELSEWHERE
from pipelines.reporting import results_file
from pipelines.reproducing import consent

PATHS = {"data.root", "data.calibration_root", "model.checkpoint"}  # compared by content
ABSENT = "(not there)"


@dataclass(frozen=True)
class Record:
    """A result with what is needed to reproduce it.

    Attributes:
        results: content of results.json.
        overrides: the command line, without settings of tracking and Hydra.
        config_dir: folder of --config-dir; None without one.
        settings: resolved settings, without tracking.
    """

    results: Mapping[str, Any]
    overrides: tuple[str, ...]
    config_dir: str | None
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> Record:
        """Read a results.json, or the one in an output folder.

        Raises:
            OSError: the file cannot be read.
            ValueError: it does not hold results, or not what is needed to reproduce them.
        """
        file = file / "results.json" if file.is_dir() else file
        results = results_file.load(file)
        command, settings = results.get("command"), results.get("settings")
        config_dir = results.get("config_dir")
        if not isinstance(command, list) or not all(isinstance(item, str) for item in command):
            raise ValueError(
                "lacks its command line (command): it cannot be reproduced from this file alone"
            )
        if not isinstance(settings, dict) or not isinstance(config_dir, str | None):
            raise ValueError(
                "lacks its settings: an older version wrote it. Rerun it by hand, "
                f"`obliq {' '.join(command)}`, and compare both with obliq-report"
            )
        calls = [item for item in command if consent.calls_code(item)]
        if calls:
            raise ValueError(
                f"names code to call ({calls[0]}), which is not run from a file. If you trust it, "
                "pass that override yourself, after the file"
            )
        overrides = tuple(item for item in command if _group(item) not in ("tracking", "hydra"))
        return cls(results, overrides, config_dir, settings)

    def setting(self, name: str) -> Any:
        """The value of a setting by its dotted name; None if there is none."""
        return _flat(self.settings).get(name)

    def changed(self, now: Mapping[str, Any]) -> list[str]:
        """Relevant settings with another value now: "bits: 4, now 3".

        Excludes settings that another version of the code has added or removed.
        """
        return [
            f"{name}: {then}, now {value}"
            for name, (then, value) in self._differing(now).items()
            if ABSENT not in (then, value) and name not in PATHS and not _moved(name, then, value)
        ]

    def versioned(self, now: Mapping[str, Any]) -> list[str]:
        """Settings that exist in only one of the two versions of the code, or have moved."""
        return [
            f"{name}: {then}, now {value}"
            for name, (then, value) in self._differing(now).items()
            if ABSENT in (then, value) or _moved(name, then, value)
        ]

    def _differing(self, now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        ours, theirs = _flat(self.settings), _flat(now)
        names = sorted({*ours, *theirs}, key=lambda name: (name.count("."), name))
        pairs = {name: (ours.get(name, ABSENT), theirs.get(name, ABSENT)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that affect figures, by dotted name; lists and empty mappings are values."""
    kept = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    leaves = dict(_leaves(kept, ""))
    texts = {name: value if isinstance(value, str) else "" for name, value in leaves.items()}
    current = {name: renamed.setting(name, text) for name, text in texts.items()}
    return {
        current[name][0]: current[name][1] if isinstance(value, str) else value
        for name, value in leaves.items()
    }


def _moved(name: str, then: Any, now: Any) -> bool:
    """Whether a class or function has only moved to another module."""
    last = [str(target).rpartition(".")[2] for target in (then, now)]
    return name.rpartition(".")[2] == "_target_" and last[0] == last[1]


def _leaves(node: Mapping[str, Any], prefix: str) -> Sequence[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        found += (
            _leaves(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
        )
    return found


def _group(override: str) -> str:
    """First part of the name: tracking of +tracking.notes=x, hydra of hydra/launcher=y."""
    return override.lstrip("+~").partition("=")[0].replace("/", ".").replace("@", ".").split(".")[0]
