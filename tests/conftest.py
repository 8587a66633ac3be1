"""What several test files share."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

# Processes of pytest-xdist share the cores, as do runs that they start. Read when torch is loaded.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _PROCESSES > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _PROCESSES)))

import pipelines  # noqa: E402, F401  (its thread settings must come before torch)
from pipelines.machine import clock  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _clock():
    """A clock that a busy machine does not slow down: every look at it is a millisecond later."""
    looks = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "seconds", lambda: next(looks) / 1000)
        patch.setattr(clock, "processor_seconds", lambda: next(looks) / 1000)
        yield


@pytest.fixture
def passes(monkeypatch):
    """passes(seconds): a clock on which time passes by this alone."""
    passed: list[float] = []
    for name in ("seconds", "processor_seconds"):
        monkeypatch.setattr(clock, name, lambda: sum(passed))
    return passed.append


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real weights and images; the test is skipped where there is none."""
    value = os.environ.get("OBLIQ_DATA")
    if not value:
        pytest.skip("OBLIQ_DATA is not set: no real weights and images")
    if not Path(value).is_dir():
        pytest.skip(f"OBLIQ_DATA={value} is not a folder: no real weights and images")
    return Path(value)
