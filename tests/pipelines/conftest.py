"""The command line in this process, on a store that the tests of a session share."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    text: str
    folder: Path

    @property
    def results(self):
        return json.loads((self.folder / "results.json").read_text())


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory):
    """A store; the digits network is trained there once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def obliq(monkeypatch, capfd, shared_store, tmp_path):
    """obliq("bits=3", ..., store=FOLDER) -> Outcome, without tracking unless asked for."""
    from pipelines import run

    count = iter(range(1000))

    def command(*words, store=shared_store, folder=None):
        folder = folder or tmp_path / f"run{next(count)}"
        monkeypatch.setenv("OBLIQ_CACHE", str(store))
        own = {word.split("=")[0] for word in words}
        more = [] if "tracking" in own else ["tracking=none"]
        more += [] if {"-m", "hydra.run.dir"} & own else [f"hydra.run.dir={folder}"]
        more += [f"hydra.sweep.dir={folder}"] if "-m" in own else []
        monkeypatch.setattr(sys, "argv", ["obliq", *words, *more])
        capfd.readouterr()
        status = 0
        try:
            run.main()
        except SystemExit as stop:
            status = stop.code or 0
        return Outcome(status, "".join(capfd.readouterr()), folder)

    return command


@pytest.fixture(scope="session")
def digits(shared_store):
    """The trained digits network and its images: (network, data), 96 calibration images."""
    from evaluation.digits import Digits
    from pipelines.models.digits import DigitsModel, TrainDigits
    from pipelines.store import Store

    config = {
        "input_size": [3, 8, 8],
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    model = DigitsModel(TrainDigits(20, 64, 0.01, 0.01, 0, config))
    network = model.load(Store(shared_store))
    data = Digits(
        root=None, calibration_root=None, batch_size=500, workers=0, skip_bad=False, images=None
    )
    data.prepare(network.data_config, 96, 0, 16)
    return network, data
