"""A network is named after its weights, never after those of another one."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

from pipelines.cli.overrides import CONF
from pipelines.models.naming import named

NAMES = [
    ("yolov8n.pt", None, "yolov8n"),
    ("yolov8n.pt", "/data/weights/yolov8n.pt", "yolov8n"),
    ("yolov8n.pt", "runs/train/best.pt", "best"),
    ("yolov5su.pt", "best.pt", "best"),
    (None, "best.v2.pt", "best.v2"),
    ("mine", "best.pt", "mine"),
    ("deeplabv3_mobilenet_v2", "x/deeplabv3_mnv2_voc.safetensors", "deeplabv3_mobilenet_v2"),
    ("cifar10_resnet20", "x/cifar10_resnet56.safetensors", "cifar10_resnet56"),
    ("textattack/bert-base-uncased-SST-2", None, "bert-base-uncased-SST-2"),
    ("textattack/bert-base-uncased-SST-2", "my/bert", "bert"),
]


@pytest.mark.parametrize(("name", "checkpoint", "expected"), NAMES)
def test_a_name_belongs_to_its_own_weights_alone(name, checkpoint, expected):
    assert named(name, checkpoint) == expected


def test_a_folder_is_named_with_all_of_its_name(tmp_path):
    folder = tmp_path / "bert-v1.2"
    folder.mkdir()
    assert named("sst2_bert", str(folder)) == "bert-v1.2"
    assert named(None, str(folder)) == "bert-v1.2"


def test_a_model_of_the_zoo_with_weights_of_another_file_is_named_after_that(tmp_path):
    settings = OmegaConf.load(CONF / "model" / "cifar10_resnet20.yaml")
    settings.checkpoint = str(tmp_path / "mine.safetensors")
    model = instantiate(settings, _convert_="all")
    save_file(model.build().state_dict(), tmp_path / "mine.safetensors")
    assert model.load(None).name == "mine"
