"""What a user is told of an error: what, where, what to do.

Errors of Hydra and OmegaConf are known by their names and attributes: nothing of them is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.cli import choices, overrides, secrets

FOLDER = "the output folder: set hydra.run.dir, with -m hydra.sweep.dir, to one that can be written"


def told(err: BaseException, words: Sequence[str]) -> str:
    """One text, with the error's notes and without secrets.

    Args:
        err: any; a ValueError says itself what to do.
        words: settings of the run, as typed.
    """
    err = cause(err)
    notes = [f"({note})" for note in getattr(err, "__notes__", ())]
    return secrets.redact(" ".join([_text(err, words), *notes]))


def cause(err: BaseException) -> BaseException:
    """What made Hydra give up, where it was Hydra that did."""
    while type(err).__name__ == "InstantiationException" and err.__cause__ is not None:
        err = err.__cause__
    return err


def _text(err: Any, words: Sequence[str]) -> str:
    better = (
        overrides.missing_extra(str(err))
        or overrides.several(str(err))
        or choices.missing(str(err), words, overrides.CONF)
    )
    if better:
        return better
    kind, reason = type(err).__name__, err.__cause__
    if kind == "MissingMandatoryValue":
        return overrides.missing(str(err.full_key))
    if _of(reason, "omegaconf") and reason.full_key:
        return overrides.unknown_setting(str(reason.full_key), _names(reason.parent_node))
    if kind == "InterpolationKeyError" and isinstance(err.parent_node, Mapping):
        key = str(err).split("'")[1]
        root: Any = err.parent_node
        above = root._get_root()
        for part in key.split(".")[:-1]:
            above = above.get(part) if isinstance(above, Mapping) else None
        return overrides.unknown_setting(key, _names(above))
    if _of(err, "omegaconf"):
        return str(err).splitlines()[0]
    if isinstance(err, OSError):
        return f"{err.strerror or err}{f': {err.filename}' if err.filename else ''}"
    if isinstance(err, ValueError) or _of(err, "hydra"):
        return str(err)
    return f"{kind}: {err}"


def _of(err: object, package: str) -> bool:
    return type(err).__module__.split(".")[0] == package


def _names(node: object) -> list[str]:
    return [str(key) for key in node] if isinstance(node, Mapping) else []
