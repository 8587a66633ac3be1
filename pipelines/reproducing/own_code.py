"""The user's own modules that took part in a run: their content, and what git knows of them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.cli.secrets import redact
from pipelines.reproducing.source import cut, git
from pipelines.store import code

DIFF = "own.diff"


def record(names: Iterable[str], folder: Path) -> dict[str, Any]:
    """What is known of the user's modules among `names` and all that they import.

    Where they lie in a git checkout, what was changed in them since the commit goes to
    `folder`/own.diff, without secrets of this process.

    Returns:
        {module: {file, sha256, commit (None: not in git), changed (None: not in git)}}
    """
    with suppress(OSError):
        (folder / DIFF).unlink(missing_ok=True)  # of an earlier run there
    found, changes = {}, b""
    for name, file in sorted(code.own(names).items()):
        with suppress(OSError):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            commit, diff = _in_git(file)
            changed = None if commit is None else bool(diff)
            found[name] = {
                "file": str(file), "sha256": digest, "commit": commit, "changed": changed,
            }  # fmt: skip
            changes += diff
    if changes:
        with suppress(OSError):
            text = redact(cut(changes).decode(errors="replace"))
            (folder / DIFF).write_text(text, encoding="utf-8")
    return found


def _in_git(file: Path) -> tuple[str | None, bytes]:
    """The commit, and the file's changes since; (None, b"") of a file that git does not track."""
    try:
        git(file.parent, "ls-files", "--error-unmatch", "--", file.name)
        commit = git(file.parent, "rev-parse", "HEAD").decode().strip()
        return commit, git(
            file.parent, "diff", "HEAD", "--full-index", "--no-ext-diff", "--no-textconv",
            "--no-color", "--", file.name,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None, b""
