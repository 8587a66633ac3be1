"""The segmentation networks against the definitions that came with their weights."""

import importlib.util

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipelines.cli.overrides import CONF
from pipelines.models.deeplabv3_mobilenet_v2 import DeepLabV3MobileNetV2
from pipelines.models.espnetv2 import ESPNetv2

ZOO = {  # conf/model file: (the same network in zoo.py, sides that it takes)
    "deeplabv3_mobilenet_v2": ("DeepLabV3MNV2", [(513, 513), (65, 97)]),
    "espnetv2": ("ESPNetv2Seg", [(384, 384), (64, 96)]),
}


@pytest.mark.parametrize("name", ZOO)
def test_real_weights_give_the_output_of_the_definition_they_came_with(
    name, zoo, data_root, monkeypatch
):
    monkeypatch.setenv("OBLIQ_DATA", str(data_root))
    model = instantiate(OmegaConf.load(CONF / "model" / f"{name}.yaml"), _convert_="all")
    model.check()
    network = model.load(store=None)
    build, sizes = ZOO[name]
    assert network.data_config["input_size"] == (3, *sizes[0])
    reference = getattr(zoo, build)().eval()
    tensors = importlib.import_module("safetensors.torch").load_file(model.checkpoint)
    missing, unexpected = reference.load_state_dict(
        {n: v.float() for n, v in tensors.items()}, strict=False
    )
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    for size in sizes:
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found, expected = network.module(x), reference(x)
        assert found.shape == (2, 21, *size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("build", "size"), [(DeepLabV3MobileNetV2, 33), (ESPNetv2, 64)])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_number_of_classes_is_a_choice(build, size, classes):
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        logits = build(classes).eval()(torch.zeros(1, 3, size, size))
    assert logits.shape == (1, classes, size, size)


@pytest.mark.parametrize("name", ZOO)
def test_without_obliq_data_the_error_says_to_set_it(name, monkeypatch, tmp_path):
    monkeypatch.delenv("OBLIQ_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    model = instantiate(OmegaConf.load(CONF / "model" / f"{name}.yaml"), _convert_="all")
    with pytest.raises(FileNotFoundError, match=r"Set it \(export OBLIQ_DATA=.*model\.checkpoint="):
        model.check()
