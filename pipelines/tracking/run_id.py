"""The identity of a run, kept in its output folder: the same command there goes on in the same run.

A W&B run may be written by several processes one after the other. Offline each leaves a folder of
its own; `wandb sync` puts those with the same id together.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import string
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.machine.disk import replacing

LETTERS = string.ascii_lowercase + string.digits
LENGTH = 8  # as wandb's own


def of(folder: Path, settings: Mapping[str, Any]) -> tuple[str, bool]:
    """The id of the run with these settings in `folder`, and whether it has begun before.

    A new id is written there.

    Other settings in the same folder are another run.

    Raises:
        OSError: the file cannot be written.
    """
    file = folder / "wandb" / "run_id.json"
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    known = _read(file)
    if known.get("settings") == digest and _is_id(known.get("id")):
        return str(known["id"]), True
    new = "".join(secrets.choice(LETTERS) for _ in range(LENGTH))
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        draft.write_text(json.dumps({"id": new, "settings": digest}) + "\n", encoding="utf-8")
    return new, False


def _read(file: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _is_id(text: Any) -> bool:
    return isinstance(text, str) and len(text) == LENGTH and set(text) <= set(LETTERS)
