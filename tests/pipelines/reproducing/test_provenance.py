"""What a run's figures come from."""

from __future__ import annotations

import hashlib
import subprocess
from types import SimpleNamespace

import pytest
import torch

from pipelines.machine.machine import Machine
from pipelines.reproducing import provenance

DATA = SimpleNamespace(calibration_key="c", evaluation_key="e")
NETWORK = SimpleNamespace(key="n")


def test_a_checkpoint_counts_by_its_bytes(tmp_path):
    file = tmp_path / "net.pt"
    file.write_bytes(b"weights")
    found = provenance.fingerprints(SimpleNamespace(checkpoint=str(file)), NETWORK, DATA)
    assert found == {
        "network": "n",
        "checkpoint": hashlib.sha256(b"weights").hexdigest(),
        "calibration": "c",
        "evaluation": "e",
    }
    assert provenance.fingerprints(SimpleNamespace(), NETWORK, DATA)["checkpoint"] is None
    assert (
        provenance.fingerprints(SimpleNamespace(checkpoint=None), NETWORK, DATA)["checkpoint"]
        is None
    )


def test_a_folder_counts_as_sha256sum_has_it(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "sub").mkdir()
    model = SimpleNamespace(checkpoint=str(tmp_path))
    lines = "".join(
        f"{hashlib.sha256(text).hexdigest()}  {name}\n"
        for name, text in (("config.json", b"{}"), ("model.safetensors", b"weights"))
    )
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert provenance.fingerprints(model, NETWORK, DATA)["checkpoint"] == expected
    (tmp_path / "config.json").write_bytes(b"{ }")
    assert provenance.fingerprints(model, NETWORK, DATA)["checkpoint"] != expected


@pytest.mark.parametrize("told", ["565.57.01\n565.57.01\n", None])
def test_the_gpu_is_described_with_its_driver_where_that_can_be_asked(monkeypatch, told):
    def ask(command, **more):
        if told is None:
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout=told)

    monkeypatch.setattr(subprocess, "run", ask)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = Machine("auto", 1, "32-true", None).describe()
    assert (found["gpu"], found["gpus"]) == ("H200", 2)
    assert found["driver"] == (told and "565.57.01")


def test_without_a_gpu_nothing_is_said_of_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = Machine("cpu", 1, "32-true", None).describe()
    assert found["gpu"] is None and "driver" not in found


def test_versions_of_packages_that_are_not_there_are_said(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = provenance.versions.__wrapped__()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["no-such-package"] is None and found["python"].startswith("3.")
