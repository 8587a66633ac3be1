"""The W&B id of a run, stored in its output folder so that the same command resumes the same run.

Several processes may write a W&B run one after the other. Offline, each creates its own folder;
`wandb sync` merges folders with the same id.
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
LENGTH = 8  # as in wandb


def of(folder: Path, settings: Mapping[str, Any]) -> tuple[str, bool]:
    """The id of the run with these settings in `folder`, and whether it existed before.

    A new id is written to the folder. Different settings in the same folder are a different run.

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
