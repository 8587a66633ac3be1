"""The code that a run ran: its commit, and what was changed since, where it is a git checkout."""

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
LIMIT = 1_000_000  # bytes of source.diff; the rest is cut off
NAMED = 50  # untracked files
SECONDS = 20.0  # that git may take


def record(folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """What is known of the code below `root`; tracked changes go to `folder`/source.diff.

    The contents of files that git does not track are not kept, only the names of those that may be
    code. Secrets of this process are taken out of the changes.

    Returns:
        commit: None where the code does not run from a checkout of its own.
        dirty: tracked files were changed.
        diff: name of the file with the changes, diff_sha256 of all of them, diff_complete.
        untracked: files that are not in git, in the folders of code.
    """
    with suppress(OSError):  # a folder that cannot be written is told of by what needs it
        (folder / "source.diff").unlink(missing_ok=True)  # of an earlier run there
    nothing: dict[str, Any] = {"commit": None, "dirty": None, "diff": None, "untracked": []}
    try:
        git(root, "ls-files", "--error-unmatch", "pipelines/__init__.py")
        commit = git(root, "rev-parse", "HEAD").decode().strip()
        diff = git(
            root, "diff", "HEAD", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
            "--src-prefix=a/", "--dst-prefix=b/", "--", ".",
        )  # fmt: skip
        others = git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or none of this code
        return nothing
    untracked = [name for name in others.decode(errors="replace").split("\0") if name]
    found = {**nothing, "commit": commit, "dirty": bool(diff), "untracked": untracked[:NAMED]}
    if diff:
        kept = redact(cut(diff).decode(errors="replace"))
        with suppress(OSError):
            (folder / "source.diff").write_text(kept, encoding="utf-8")
            found["diff"] = "source.diff"
        found |= {
            "diff_sha256": hashlib.sha256(diff).hexdigest(),
            "diff_complete": len(diff) <= LIMIT,
        }
    return found


def cut(diff: bytes) -> bytes:
    """All of it, or whole lines up to the limit and a last line that says so."""
    if len(diff) <= LIMIT:
        return diff
    return diff[:LIMIT].rpartition(b"\n")[0] + f"\n# cut off: {len(diff)} bytes\n".encode()


def git(root: Path, *words: str) -> bytes:
    """What git says; it writes nothing and asks for nothing.

    Raises:
        OSError, subprocess.SubprocessError: it is not there, fails, or takes too long.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotepath=off", *words]
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
