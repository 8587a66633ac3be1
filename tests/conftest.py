"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pipelines  # noqa: F401  (its thread settings must come before torch)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real weights and images; the test is skipped where there is none."""
    value = os.environ.get("OBLIQ_DATA")
    if not value:
        pytest.skip("OBLIQ_DATA is not set: no real weights and images")
    if not Path(value).is_dir():
        pytest.skip(f"OBLIQ_DATA={value} is not a folder: no real weights and images")
    return Path(value)
