"""Keys and passwords: kept out of every file, log and screen that a run writes.

Settings are saved by Hydra, stand in results.json and are shown by W&B, so none may be a secret.
Libraries take theirs from the environment (WANDB_API_KEY, HF_TOKEN, ...) or from ~/.netrc.
"""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_KEYS = (
    "API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET|SECRET_?KEY|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?"
)
VARIABLE = re.compile(rf"(^|_)({_KEYS}|KEY|TOKEN)(_|$)", re.IGNORECASE)
SETTING = re.compile(
    rf"^(.*_)?({_KEYS})$|^((access|auth|api|bearer|hf|wandb|use_auth)_)?token$|^(wandb_)?key$",
    re.IGNORECASE,
)
SHORTEST = 8  # shorter values are no keys, and would be found everywhere
FORMS = re.compile(r"\b(?:wandb_v1_|hf_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{20,}")


def is_secret(name: str) -> bool:
    """Whether a setting of this name, without what is before its last dot, holds a secret.

    Examples:
        >>> [is_secret(name) for name in ("api_key", "wandb_token", "tokenizer", "pad_token")]
        [True, True, False, False]
    """
    return bool(SETTING.search(name))


def known() -> dict[str, str]:
    """Secrets of this process, by where they come from: the environment, and netrc files."""
    found = {name: value for name, value in os.environ.items() if VARIABLE.search(name)}
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
        for host, (_, _, password) in netrc.netrc(str(file)).hosts.items():
            found[f"{file} ({host})"] = password or ""
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def redact(text: str) -> str:
    """`text` with "[removed]" for every secret of this process, and for what looks like one."""
    for value in sorted(known().values(), key=len, reverse=True):
        text = text.replace(value, "[removed]")
    return FORMS.sub("[removed]", text)


def check_words(words: Sequence[str]) -> None:
    """Refuse words of the command line that set a secret; to be called before Hydra saves them.

    Raises:
        ValueError: one does. Its value is not in the message.
    """
    secrets = known()
    for word in words:
        name, _, value = word.partition("=")
        _refuse(name.lstrip("+~"), value, secrets)


def check_settings(settings: Mapping[str, Any]) -> None:
    """The same of resolved settings, which may have come from a file or from the environment.

    Raises:
        ValueError: a setting is a secret.
    """
    secrets = known()
    for name, value in _leaves(settings, ""):
        _refuse(name, "" if value is None else str(value), secrets)


def _refuse(name: str, value: str, secrets: Mapping[str, str]) -> None:
    held = next((where for where, secret in secrets.items() if secret in value), None)
    by_name = bool(value) and is_secret(name.rpartition(".")[2])
    if held is None and not by_name and not FORMS.search(value):
        return
    what = f"the value of {held}" if held else "a secret"
    raise ValueError(
        f"{redact(name)} holds {what}, and settings are saved in files and shown by W&B. Give no "
        "key as a setting: set the environment variable WANDB_API_KEY, or run `wandb login` once "
        "(for Hugging Face: HF_TOKEN)"
    )


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _leaves(value, name)
    else:
        yield name, node
