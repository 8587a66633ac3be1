"""Every data set, and what its settings do to the keys of its images."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import SimpleNamespace
from typing import Any

import evaluation
from evaluation.images import ImageData
from pipelines.store import fingerprint

NOTHING = SimpleNamespace(decode=str, blob=str)


def data_sets() -> list[type[ImageData]]:
    """All that can be made."""
    for module in pkgutil.iter_modules(evaluation.__path__, "evaluation."):
        importlib.import_module(module.name)
    found, todo = [], [ImageData]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if not inspect.isabstract(kind) and kind.__module__.startswith("evaluation."):
            found.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def keyed(kind: type[ImageData]) -> dict[str, tuple[bool, bool]]:
    """Of each setting: is it in the key of calibration images, of evaluation images?"""
    names = [*inspect.signature(kind.__init__).parameters][1:]
    before = {name: f"value of {name}" for name in names}
    return {
        name: tuple(
            _told(kind, before, each) != _told(kind, before | {name: "another"}, each)
            for each in (False, True)
        )
        for name in names
    }


def _told(kind: type[ImageData], settings: dict[str, Any], evaluating: bool) -> str:
    data = object.__new__(kind)
    vars(data).update(
        settings=settings,
        calibration=NOTHING,
        evaluation=NOTHING,
        batch_size=settings["batch_size"],
        _calibration_batch_size=1,
        _view=None,
    )
    vars(data).pop("_trainer", None)
    return fingerprint.content(data.described(evaluating))
