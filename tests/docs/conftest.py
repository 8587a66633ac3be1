"""A reader of a page, in a folder and with a store of their own."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from tests.docs.commands import Reader


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A store; the digits network is trained there once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def reader(tmp_path, monkeypatch, capfd, store):
    """Somebody in an empty folder; what they export, import and change is forgotten afterwards."""
    monkeypatch.setenv("OBLIQ_CACHE", str(store))
    environment, path, modules = dict(os.environ), list(sys.path), set(sys.modules)
    here, log = os.getcwd(), logging.getLogger()
    level, handlers = log.level, list(log.handlers)
    os.chdir(tmp_path)

    def printed():
        return "".join(capfd.readouterr())

    yield Reader(tmp_path, printed)
    os.chdir(here)
    log.setLevel(level)  # Hydra's --info leaves its own
    log.handlers[:] = handlers
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]
