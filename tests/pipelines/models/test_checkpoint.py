import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from pipelines.models.checkpoint import CheckpointModel
from pipelines.models.network import DATA_KEYS

CONF = Path(__file__).parents[3] / "conf" / "model"
ZOO = {  # conf/model file: (the same network in zoo.py, input size)
    "cifar10_resnet20": (lambda zoo: zoo.CifarResNet(3), (3, 32, 32)),
    "cifar10_resnet56": (lambda zoo: zoo.CifarResNet(9), (3, 32, 32)),
    "mobilenet_v1": (lambda zoo: zoo.MobileNetV1(0.75), (3, 224, 224)),
    "mobilenet_v2": (lambda zoo: zoo.mobilenet_v2_tf(), (3, 224, 224)),
}
CONFIG = dict.fromkeys(DATA_KEYS, 1.0) | {"input_size": [3, 8, 8]}


def configured(name):
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all")


def linear(checkpoint):
    build = partial(nn.Linear, 2, 3)
    return CheckpointModel("linear", build, None if checkpoint is None else str(checkpoint), CONFIG)


@pytest.mark.parametrize("name", ZOO)
def test_real_weights_give_the_output_of_the_definition_they_came_with(
    name, zoo, data_root, monkeypatch
):
    monkeypatch.setenv("OBLIQ_DATA", str(data_root))
    model = configured(name)
    model.check()
    network = model.load(store=None)
    build, size = ZOO[name]
    reference = build(zoo).eval()
    tensors = importlib.import_module("safetensors.torch").load_file(model.checkpoint)
    reference.load_state_dict({n: v.float() for n, v in tensors.items()})
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network.module(x), reference(x), rtol=0, atol=1e-6)
    assert network.data_config["input_size"] == size
    assert network.data_config.keys() == set(DATA_KEYS)


@pytest.mark.parametrize("name", ZOO)
def test_without_obliq_data_the_error_says_to_set_it(name, monkeypatch, tmp_path):
    monkeypatch.delenv("OBLIQ_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Set it \(export OBLIQ_DATA=.*model\.checkpoint="):
        configured(name).check()


def test_weights_come_from_the_file_and_the_global_rng_is_left_alone(tmp_path):
    trained = nn.Linear(2, 3)
    torch.save(trained.state_dict(), tmp_path / "x.pt")
    before = torch.get_rng_state()
    network = linear(tmp_path / "x.pt").load(store=None)
    assert torch.equal(network.module.weight, trained.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_misspelt_file_is_answered_with_the_near_names(tmp_path):
    for name in ("resnet20.safetensors", "resnet56.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(
        FileNotFoundError, match=r"resnet2\.safe.* does not exist\..*: resnet20\.safet"
    ):
        linear(tmp_path / "resnet2.safetensors").check()


@pytest.mark.parametrize("content", ["folder", "nothing"])
def test_a_folder_or_a_missing_folder_is_no_checkpoint(tmp_path, content):
    folder = tmp_path / "weights"
    if content == "folder":
        (folder / "sub").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"weights is a folder.*: none"):
            linear(folder).check()
    else:
        with pytest.raises(
            FileNotFoundError, match=r"x\.pt does not exist, nor does its folder .*weights\."
        ):
            linear(folder / "x.pt").check()


def test_no_checkpoint_at_all_says_how_to_give_one():
    with pytest.raises(ValueError, match=r"set model\.checkpoint=FILE"):
        linear(None).check()


def test_check_finds_an_incomplete_data_config(tmp_path):
    (tmp_path / "x.pt").touch()
    model = CheckpointModel("linear", partial(nn.Linear, 2, 3), str(tmp_path / "x.pt"), {})
    with pytest.raises(ValueError, match="data_config of model linear: missing"):
        model.check()
