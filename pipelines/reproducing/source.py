"""The state of the code of a run: commit and uncommitted changes, if it is a git checkout."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.cli.secrets import redact

ROOT = Path(__file__).parents[2]
CODE = ("conf", "evaluation", "hydra_plugins", "pipelines", "quant")
LIMIT = 1_000_000  # maximum bytes of source.diff
NAMED = 50  # maximum number of untracked files listed
SECONDS = 20.0  # timeout of a git command


def record(folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """Record the state of the code below `root`; tracked changes go to `folder`/source.diff.

    Of untracked files in the folders of code, only the names are recorded. Secrets of this process
    are removed from the changes.

    Returns:
        commit: hash of the commit; None if the code does not run from its own checkout.
        dirty: whether tracked files have changes.
        diff: name of the file with the changes; with diff_sha256 and diff_complete.
        untracked: names of untracked files.
    """
    with suppress(OSError):  # whoever needs the folder reports that it cannot be written
        (folder / "source.diff").unlink(missing_ok=True)  # from an earlier run
    unknown: dict[str, Any] = {"commit": None, "dirty": None, "diff": None, "untracked": []}
    try:
        _git(root, "ls-files", "--error-unmatch", "pipelines/__init__.py")
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        diff = _git(
            root, "diff", "HEAD", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
            "--src-prefix=a/", "--dst-prefix=b/", "--", ".",
        )  # fmt: skip
        others = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or not of this code
        return unknown
    untracked = [name for name in others.decode(errors="replace").split("\0") if name]
    found = {**unknown, "commit": commit, "dirty": bool(diff), "untracked": untracked[:NAMED]}
    if diff:
        kept = redact(_cut(diff).decode(errors="replace"))
        with suppress(OSError):
            (folder / "source.diff").write_text(kept, encoding="utf-8")
            found["diff"] = "source.diff"
        found |= {
            "diff_sha256": hashlib.sha256(diff).hexdigest(),
            "diff_complete": len(diff) <= LIMIT,
        }
    return found


def _cut(diff: bytes) -> bytes:
    """The diff, truncated to whole lines within the limit, with a note at the end."""
    if len(diff) <= LIMIT:
        return diff
    return diff[:LIMIT].rpartition(b"\n")[0] + f"\n# cut off: {len(diff)} bytes\n".encode()


def _git(root: Path, *arguments: str) -> bytes:
    """Output of a git command, which may neither write nor prompt.

    Raises:
        OSError, subprocess.SubprocessError: git is missing, fails, or exceeds the time limit.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotepath=off", *arguments]
    done = subprocess.run(
        command,
        cwd=root,
        env={**own, **quiet},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout
