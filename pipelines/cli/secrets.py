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

from pipelines.cli import secret_shapes

_KEYS = (
    "api_?key|access_?key|private_?key|account_?key|secret|secret_?key|password|passwd|passphrase"
    "|credentials?"
)
VARIABLE = re.compile(rf"(^|_)({_KEYS}|key|token|pass|pwd|pat)(_|$)|password|secret|passwd")
SETTING = re.compile(
    rf"^(.*_)?({_KEYS}|pass|pwd)$|(password|passwd|secret)$|^.+_pat$|^(wandb_)?key$"
    r"|^((access|auth|api|bearer|hf|wandb|use_auth|sas|refresh|session|client|github|gitlab)_)?token$"
)
SHORTEST = 8  # shorter values are no keys and would match everywhere


def is_secret(name: str) -> bool:
    """Whether a setting with this name (the part after its last dot) holds a secret.

    Examples:
        >>> [is_secret(name) for name in ("api_key", "accessToken", "tokenizer", "pad_token")]
        [True, True, False, False]
    """
    return bool(SETTING.search(_plain(name)))


def _plain(name: str) -> str:
    """A name in lower case, its parts joined by "_": api_key of API-KEY and of apiKey."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", parts.lower())


def known() -> dict[str, str]:
    """Secrets of this process, by where they come from: the environment, and netrc files."""
    found = {
        name: value
        for name, value in os.environ.items()
        if VARIABLE.search(_plain(name)) or secret_shapes.is_address_or_key_file(value)
    }
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
        for host, (_, _, password) in netrc.netrc(str(file)).hosts.items():
            found[f"{file} ({host})"] = password or ""
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def redact(text: str) -> str:
    """`text` with "[removed]" for every secret of this process, and for what looks like one."""
    values = {part for value in known().values() for part in _parts(value)}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, secret_shapes.REMOVED)
    return secret_shapes.redact(text)


def _parts(value: str) -> Iterator[str]:
    """What may stand in a text of a secret: all of it, each of its lines, its password."""
    yield value
    yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= 2 * SHORTEST)
    for found in secret_shapes.ADDRESS.finditer(value):
        if len(found[2]) >= SHORTEST:
            yield found[2]


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
    if held is None and not by_name and not secret_shapes.has_secret(value):
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
