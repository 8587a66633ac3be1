"""What an unfinished stage goes on from: whole, or as if it were not there."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from lightning import LightningModule
from torch.utils.data import DataLoader, TensorDataset

import pipelines.machine.checkpoint
from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.machine import Machine


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path, "sums")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_what_was_saved_last_is_loaded_and_nothing_else_stays(checkpoint):
    assert checkpoint.load() is None
    for value in (1.0, 2.0):
        checkpoint.save({"x": torch.full((3,), value)})
        assert checkpoint.load()["x"].tolist() == [value] * 3
    assert len(list(checkpoint.folder.iterdir())) == 1


@pytest.mark.parametrize("place", [0, 9, -1])
def test_any_flipped_bit_makes_it_absent(checkpoint, place):
    checkpoint.save({"x": torch.ones(3)})
    flip(checkpoint.newest(), place)
    assert checkpoint.load() is None


def test_it_is_on_the_disk_before_what_it_replaces_goes(checkpoint, monkeypatch):
    checkpoint.save({"x": torch.ones(3)})
    (old,) = checkpoint.folder.iterdir()
    seen = []
    through, replace = pipelines.machine.checkpoint.fsync, os.replace

    def writing(path):
        seen.append((path.name, old.exists()))
        through(path)

    def replacing(source, target):
        seen.append("renamed")
        replace(source, target)

    monkeypatch.setattr(pipelines.machine.checkpoint, "fsync", writing)
    monkeypatch.setattr(os, "replace", replacing)
    checkpoint.save({"x": torch.zeros(3)})
    assert seen == [("sums.new", True), "renamed", (checkpoint.folder.name, True)]
    assert not old.exists()


def test_a_full_disk_is_a_clear_error_and_the_one_before_stays(checkpoint, monkeypatch):
    checkpoint.save({"x": torch.ones(3)})

    def full(tensors, path):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipelines.machine.checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"no space left for .*OBLIQ_CACHE"):
        checkpoint.save({"x": torch.zeros(3)})
    assert checkpoint.load()["x"].tolist() == [1.0] * 3


class Count(LightningModule):
    """Adds 1 to a weight in every epoch; dies before one of them."""

    def __init__(self, until):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64))
        self.until, self.epochs = until, []

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(1)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch, _):
        if self.current_epoch == self.until:
            raise RuntimeError("killed")
        self.epochs.append(self.current_epoch)
        return -self.weight.sum()


def fit(folder, until=None):
    module = Count(until)
    machine = Machine("cpu", 1, "32-true", 1)
    if until is None:
        machine.fit("count", module, 4, 4, folder)
    else:
        with pytest.raises(RuntimeError, match="killed"):
            machine.fit("count", module, 4, 4, folder)
    return module


def test_a_training_goes_on_after_the_last_epoch_that_was_saved(tmp_path):
    assert fit(tmp_path, until=2).epochs == [0, 1]
    module = fit(tmp_path)
    assert module.epochs == [2, 3] and module.weight.tolist() == [4.0] * 64


def test_a_training_never_goes_on_from_flipped_bits(tmp_path):
    """torch.load reads the bytes of a tensor without looking at their checksum."""
    fit(tmp_path, until=2)
    (path,) = tmp_path.glob("*.ckpt")
    flip(path, path.read_bytes().index(torch.full((64,), 2.0).numpy().tobytes()) + 2)
    with open(path, "rb") as file:
        state = torch.load(file, weights_only=True)["state_dict"]
    assert state["weight"].tolist() != [2.0] * 64, "the damage is not where it was meant to be"
    module = fit(tmp_path)
    assert module.epochs == [0, 1, 2, 3] and module.weight.tolist() == [4.0] * 64
