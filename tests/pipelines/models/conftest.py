"""The reference definitions of the real networks."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture
def zoo(data_root):
    """The definitions that came with the weights, written independently of this project's."""
    spec = importlib.util.spec_from_file_location("zoo", data_root / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
