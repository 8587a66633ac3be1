import dataclasses
import logging

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from timm.data import create_transform
from torch import nn

from evaluation import digits
from pipelines.models.digits import DigitsModel, DigitsNet, TrainDigits
from pipelines.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def configured(request):
    path = request.config.rootpath / "conf" / "model" / "digits.yaml"
    return instantiate(OmegaConf.load(path), _convert_="all")


@pytest.fixture
def short(configured):
    return DigitsModel(dataclasses.replace(configured.train, epochs=1))


def test_the_configured_network_reads_held_out_digits(configured, store):
    configured.check()
    network = configured.load(store)
    _, held_out = digits.split()
    transform = create_transform(**network.data_config, is_training=False)
    x = torch.stack([transform(held_out.decode(held_out.blob(i))) for i in held_out.ids])
    with torch.inference_mode():
        right = network.module(x).argmax(1) == torch.tensor(held_out.labels)
    assert right.float().mean() >= 0.97


def test_training_decodes_no_held_out_digit(short, store, monkeypatch):
    pool, held_out = digits.split()
    seen = set()

    def watched(name):
        seen.add(name)
        return pool.blob(name)

    monkeypatch.setattr(
        digits, "split", lambda: (dataclasses.replace(pool, blob=watched), held_out)
    )
    short.load(store)
    assert seen == set(pool.ids)
    assert not seen & set(held_out.ids)


def test_the_same_settings_give_the_same_bits_and_another_seed_does_not(short, tmp_path):
    torch.manual_seed(1)
    first = short.load(Store(tmp_path / "1"))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = short.load(Store(tmp_path / "2"))
    assert torch.equal(torch.get_rng_state(), before)
    other = DigitsModel(dataclasses.replace(short.train, seed=9)).load(Store(tmp_path / "2"))
    assert first.key == again.key != other.key


def test_a_store_that_has_it_trains_nothing(short, store, monkeypatch):
    first = short.load(store)
    monkeypatch.setattr(TrainDigits, "run", lambda self: pytest.fail("it trained again"))
    again = short.load(store)
    assert first.key == again.key
    assert first.module is not again.module


def test_training_is_quiet_and_lightning_can_speak_again_after_it(short, capfd, recwarn):
    lightning_log, said = logging.getLogger("lightning.pytorch"), []
    level, listener = lightning_log.level, logging.Handler()
    listener.emit = said.append
    lightning_log.addHandler(listener)
    try:
        short.train.run()
    finally:
        lightning_log.removeHandler(listener)
    assert not [record.getMessage() for record in said]
    assert not [str(w.message) for w in recwarn]
    assert capfd.readouterr() == ("", "")
    assert lightning_log.level == level


def test_network_is_small_and_has_every_kind_of_layer():
    network = DigitsNet()
    convs = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert sum(value.numel() for value in network.parameters()) < 60_000
    assert any(conv.groups == conv.in_channels > 1 for conv in convs)
    assert any(conv.stride == (2, 2) for conv in convs)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in network.modules()) == len(convs)


@pytest.mark.parametrize("setting", ["epochs", "batch_size", "learning_rate"])
def test_settings_that_cannot_train_are_refused_at_once(configured, setting):
    with pytest.raises(ValueError, match=rf"model\.train\.{setting}=0 must be positive"):
        dataclasses.replace(configured.train, **{setting: 0})
