"""What secrets look like, by the rules of `detect-secrets`, and in addresses and key files.

Loading those rules takes a fraction of a second, so it is done only for a text that holds a long
word of letters and digits.
"""

from __future__ import annotations

import importlib
import re
from functools import cache

REMOVED = "[removed]"
RULES = (  # modules of detect_secrets.plugins that go by shape; the others guess from names
    "aws", "azure_storage_key", "discord", "github_token", "gitlab_token", "mailchimp",
    "npm", "openai", "pypi_token", "sendgrid", "slack", "square_oauth", "stripe",
    "telegram_token", "twilio",
)  # fmt: skip
OWN = re.compile(
    r"\b(?:wandb_v1_|hf_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"  # a JSON web token
)
ADDRESS = re.compile(r"(?<=://)([^\s/:@'\"]*):([^\s/@'\"]+)@(?=[^\s/@])")  # user:password@host
KEY_FILE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----(?:.*?-----END [A-Z0-9 ]+-----|.*)", re.DOTALL
)
LONG = re.compile(r"(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_+=-]{16,}")


def has_secret(text: str) -> bool:
    """Whether something in a text has the shape of a secret."""
    return redact(text) != text


def is_address_or_key_file(text: str) -> bool:
    """Whether a text holds user:password@host or a private key: quick, without other rules."""
    return bool(ADDRESS.search(text) or KEY_FILE.search(text))


def redact(text: str) -> str:
    """`text` with "[removed]" for everything that has the shape of a secret.

    Examples:
        >>> redact("https://me:quite-private@example.org/x")
        'https://me:[removed]@example.org/x'
    """
    text = KEY_FILE.sub(REMOVED, text)
    text = ADDRESS.sub(lambda found: f"{found[1]}:{REMOVED}@", text)
    text = OWN.sub(REMOVED, text)
    if LONG.search(text):
        for rule in _rules():
            text = rule.sub(REMOVED, text)
    return text


@cache
def _rules() -> tuple[re.Pattern[str], ...]:
    found: list[re.Pattern[str]] = []
    for name in RULES:
        module = importlib.import_module(f"detect_secrets.plugins.{name}")
        for kind in vars(module).values():
            patterns = getattr(kind, "denylist", None)
            if getattr(kind, "__module__", "") == module.__name__ and isinstance(
                patterns, list | tuple
            ):
                found += patterns
    return tuple(found)
