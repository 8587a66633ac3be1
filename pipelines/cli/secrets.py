"""Keep keys and passwords out of every file, log and message of a run.

Settings are saved by Hydra, written to results.json and shown by W&B, so none may be a secret.
Libraries read theirs from environment variables (WANDB_API_KEY, HF_TOKEN, ...) or ~/.netrc.
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
SHORTEST = 8  # shorter values are no keys and would match everywhere
FORMS = re.compile(r"\b(?:wandb_v1_|hf_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{20,}")


def is_secret(name: str) -> bool:
    """Whether a setting with this name (the part after its last dot) holds a secret.

    Examples:
        >>> [is_secret(name) for name in ("api_key", "wandb_token", "tokenizer", "pad_token")]
        [True, True, False, False]
    """
    return bool(SETTING.search(name))


def known() -> dict[str, str]:
    """Secrets of this process by source: environment variables and the netrc file."""
    found = {name: value for name, value in os.environ.items() if VARIABLE.search(name)}
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
        for host, (_, _, password) in netrc.netrc(str(file)).hosts.items():
            found[f"{file} ({host})"] = password or ""
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def redact(text: str) -> str:
    """Replace every secret of this process, and whatever looks like one, by "[removed]"."""
    for value in sorted(known().values(), key=len, reverse=True):
        text = text.replace(value, "[removed]")
    return FORMS.sub("[removed]", text)


def check_arguments(arguments: Sequence[str]) -> None:
    """Reject overrides that set a secret. Call it before Hydra saves them.

    Raises:
        ValueError: an override sets a secret. The message does not contain the value.
    """
    secrets = known()
    for argument in arguments:
        name, _, value = argument.partition("=")
        _refuse(name.lstrip("+~"), value, secrets)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Reject secrets among resolved settings, which may come from a file or the environment.

    Raises:
        ValueError: a setting is a secret. The message does not contain the value.
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
        f"{redact(name)} holds {what}, and settings are saved in files and shown by W&B. Do not "
        "pass keys as settings: set the environment variable WANDB_API_KEY, or run `wandb login` "
        "once (for Hugging Face: HF_TOKEN)"
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
