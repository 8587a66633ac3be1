"""What a run does while another one is at the calibration that both need."""

from __future__ import annotations

import fcntl
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from pipelines.machine.ranks import Ranks
from pipelines.quantizing import _calibrated
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store, fingerprint

order: list[str] = []


@dataclass(frozen=True)
class Named:
    """Stands for a stage, and says when it runs."""

    name: str

    def run(self, network: Keyed[None], images: Keyed[None], machine: Keyed[None]) -> Artifact:
        order.append(self.name)
        return Artifact({}, {})


CALIBRATE = Named("calibrate")
GIVEN = Keyed(None, "network"), Keyed(None, "images")


def context(store, float_outputs, objective=None):
    machine = SimpleNamespace(key="", ranks=Ranks())
    batchnorm = SimpleNamespace(prerequisites=lambda: [Named("moments")])
    chain = SimpleNamespace(calibrate=CALIBRATE, batchnorm=batchnorm, objective=objective)
    network, images = GIVEN
    return SimpleNamespace(
        chain=chain,
        store=store,
        network=network,
        images=images,
        machine=machine,
        float_outputs=float_outputs,
    )


@pytest.fixture
def taken(tmp_path):
    """Another run has the lock of the calibration: an open file, to be closed, or after a while."""
    order.clear()
    key = fingerprint.key(CALIBRATE, [Keyed(None, key) for key in ("network", "images", "")])
    path = tmp_path / "Named" / f"{key}.lock"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(20, file.close)
        timer.start()
        yield file
        timer.cancel()


def test_while_another_run_calibrates_the_float_network_is_evaluated(taken, tmp_path):
    def float_outputs():
        order.append("evaluate")
        taken.close()

    _calibrated(context(Store(tmp_path), float_outputs))
    assert order == ["moments", "evaluate", "calibrate"], "here the other run has failed"


def test_a_search_never_evaluates(taken, tmp_path):
    def released(message):
        order.append(message)
        taken.close()

    store = Store(tmp_path, released)
    _calibrated(context(store, lambda: order.append("evaluate"), objective="kl"))
    assert order == ["moments", "another run is computing Named: waiting for it", "calibrate"]


def test_a_run_that_nobody_is_ahead_of_calibrates_first(taken, tmp_path):
    taken.close()
    _calibrated(context(Store(tmp_path), lambda: order.append("evaluate")))
    assert order == ["calibrate"]
