"""Error messages for users: what is wrong, where, and what to do.

Errors of Hydra and OmegaConf are recognized by class name and attributes, without importing either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.cli import choices, overrides, secrets

FOLDER = "the output folder: set hydra.run.dir (with -m: hydra.sweep.dir) to a writable folder"


def message(err: BaseException, given: Sequence[str]) -> str:
    """The message of an error with its notes, without secrets.

    Args:
        err: any error; the text of a ValueError is used as it is.
        given: overrides as typed.
    """
    err = cause(err)
    notes = [f"({note})" for note in getattr(err, "__notes__", ())]
    return secrets.redact(" ".join([_text(err, given), *notes]))


def cause(err: BaseException) -> BaseException:
    """The error behind Hydra's InstantiationException; any other error unchanged."""
    while type(err).__name__ == "InstantiationException" and err.__cause__ is not None:
        err = err.__cause__
    return err


def _text(err: Any, given: Sequence[str]) -> str:
    better = (
        overrides.missing_extra(str(err))
        or overrides.several(str(err))
        or choices.missing(str(err), given, overrides.CONF)
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
