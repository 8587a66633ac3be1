"""The real networks, by the names of their files in conf/model/."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from pipelines.cli.overrides import CONF
from pipelines.store.store import Store


@pytest.fixture
def real_network(data_root, monkeypatch, tmp_path):
    """real_network("yolov5n") -> the float network with its released weights."""
    monkeypatch.setenv("OBLIQ_DATA", str(data_root))

    def load(name):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("run", [f"model={name}", "data=digits"])
        return instantiate(cfg.model, _convert_="all").load(Store(tmp_path))

    return load
