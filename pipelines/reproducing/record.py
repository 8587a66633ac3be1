"""What results.json says of how it was made: the words of its command line, and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cli import renamed
from pipelines.comparing.settings import ELSEWHERE
from pipelines.reporting import results_file
from pipelines.reproducing import consent

PATHS = {"data.root", "data.calibration_root", "model.checkpoint"}  # what lies there is compared
ABSENT = "(not there)"


@dataclass(frozen=True)
class Record:
    """A result and how to make it again.

    Attributes:
        results: content of results.json.
        words: of the command line, without those of tracking and of Hydra.
        config_dir: the folder of --config-dir, if there was one.
        settings: resolved, without tracking.
    """

    results: Mapping[str, Any]
    words: tuple[str, ...]
    config_dir: str | None
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> Record:
        """The record in a results.json, or in the one of an output folder.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no results, or not what is needed to make them again.
        """
        file = file / "results.json" if file.is_dir() else file
        results = results_file.load(file)
        command, settings = results.get("command"), results.get("settings")
        config_dir = results.get("config_dir")
        if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
            raise ValueError(
                "lacks the words of its command line (command): it cannot be made again from this "
                "file alone"
            )
        if not isinstance(settings, dict) or not isinstance(config_dir, str | None):
            raise ValueError(
                "lacks its settings: an older version wrote it. Make it again by hand, "
                f"`obliq {' '.join(command)}`, and look at both with obliq-report"
            )
        calls = [word for word in command if consent.calls_code(word)]
        if calls:
            raise ValueError(
                f"names code to call ({calls[0]}), which no record may do. If you trust it, give "
                "that word yourself, behind the file"
            )
        words = tuple(word for word in command if _group(word) not in ("tracking", "hydra"))
        return cls(results, words, config_dir, settings)

    def setting(self, name: str) -> Any:
        """The value of a setting by its path; None where there is none."""
        return _flat(self.settings).get(name)

    def changed(self, now: Mapping[str, Any]) -> list[str]:
        """Settings that count and have another value now: "bits: 4, now 3".

        What was added or removed by another version of the code is not among them.
        """
        return [
            f"{name}: {then}, now {value}"
            for name, (then, value) in self._differing(now).items()
            if ABSENT not in (then, value) and name not in PATHS and not _moved(name, then, value)
        ]

    def versioned(self, now: Mapping[str, Any]) -> list[str]:
        """Settings that only one of the two versions of the code knows, or has elsewhere."""
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
    """Values by path, without what moves no figure; a list, and an empty mapping, is a value."""
    kept = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    leaves = dict(_leaves(kept, ""))
    texts = {name: value if isinstance(value, str) else "" for name, value in leaves.items()}
    now = {name: renamed.setting(name, text) for name, text in texts.items()}
    return {
        now[name][0]: now[name][1] if isinstance(value, str) else value
        for name, value in leaves.items()
    }


def _moved(name: str, then: Any, now: Any) -> bool:
    """Whether a class or function has only moved to another module."""
    last = [str(target).rpartition(".")[2] for target in (then, now)]
    return name.rpartition(".")[2] == "_target_" and last[0] == last[1]


def _leaves(node: Mapping[str, Any], above: str) -> Sequence[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{above}{key}"
        found += (
            _leaves(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
        )
    return found


def _group(word: str) -> str:
    """The first part of a word's name: tracking of +tracking.notes=x, hydra of hydra/launcher=y."""
    return word.lstrip("+~").partition("=")[0].replace("/", ".").replace("@", ".").split(".")[0]
