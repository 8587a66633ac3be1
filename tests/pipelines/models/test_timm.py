import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipelines.models.timm import TimmModel

SMALL = "test_resnet"  # timm's own smallest models are meant for tests


def model(name=SMALL, pretrained=False, checkpoint=None, num_classes=None, seed=0):
    return TimmModel(name, pretrained, checkpoint, num_classes, seed)


def weights(network):
    return torch.cat([v.flatten() for v in network.module.parameters()])


@pytest.fixture
def hub(monkeypatch):
    """Weights that stand in for timm's: only the download is replaced, the rest is timm's code."""
    torch.manual_seed(1)
    stored = timm.create_model(SMALL).state_dict()
    asked = []

    def download(model_id, *args, **kwargs):
        asked.append(model_id)
        return {name: value.clone() for name, value in stored.items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    return stored, asked


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnt50", "Nearest: resnet50,"),
        ("vit_small", "Nearest: vit_small_patch"),
        ("resnet50.a1", "Nearest: resnet50.a1_in1k,"),
        ("tv_resnet34", "use model.name=resnet34.tv_in1k"),
        ("qqqqqq", "Nearest: none"),
        ("", "Nearest: none"),
    ],
)
def test_an_unknown_name_is_answered_with_valid_ones(name, nearest):
    with pytest.raises(ValueError, match=r"timm .*") as caught:
        model(name).check()
    assert nearest in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["resnet18", "resnet50.a1_in1k", "vit_small_patch16_224"])
def test_names_with_and_without_a_tag_are_known(name):
    model(name, pretrained=True).check()


def test_random_weights_depend_on_the_seed_only_and_leave_the_global_rng_alone():
    torch.manual_seed(5)
    first = model(seed=3).load(None)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    again, other = model(seed=3).load(None), model(seed=4).load(None)
    assert torch.equal(weights(first), weights(again))
    assert first.key == again.key
    assert not torch.equal(weights(first), weights(other))
    assert first.name == "test_resnet.random"


def test_data_config_is_timms():
    config = model().load(None).data_config
    assert config["input_size"] == (3, 160, 160)
    assert (config["mean"], config["crop_pct"]) == ((0.5, 0.5, 0.5), 0.95)


@pytest.mark.parametrize("name", [SMALL, f"{SMALL}.r160_in1k"])
def test_pretrained_weights_are_those_that_the_hub_gives(hub, name):
    stored, asked = hub
    network = model(name, pretrained=True).load(None)
    for key, value in network.module.state_dict().items():
        assert torch.equal(value, stored[key])
    assert network.name == "test_resnet.r160_in1k"
    assert asked == ["timm/test_resnet.r160_in1k"]


def test_a_checkpoint_replaces_the_download(hub, tmp_path):
    _, asked = hub
    trained = timm.create_model(SMALL, num_classes=7)
    state = {f"module.{n}": v for n, v in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    given = model(pretrained=True, checkpoint=str(tmp_path / "mine.pth"), num_classes=7)
    given.check()
    network = given.load(None)
    assert torch.equal(network.module.fc.weight, trained.fc.weight)
    assert network.name == "test_resnet.mine"
    assert not asked


def test_a_checkpoint_with_other_classes_names_the_layer_that_differs(tmp_path):
    torch.save(timm.create_model(SMALL, num_classes=7).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"2 of another shape: fc\.weight is \[7, "):
        model(checkpoint=str(tmp_path / "x.pth")).load(None)


def test_a_missing_checkpoint_is_found_by_check(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.pth does not exist"):
        model(checkpoint=str(tmp_path / "x.pth")).check()


def test_other_classes_than_the_pretrained_ones_are_refused():
    with pytest.raises(ValueError, match=r"num_classes=7.* have 1000 classes.*would be random"):
        model(pretrained=True, num_classes=7).check()


def test_a_model_without_pretrained_weights_says_so_before_any_download():
    name = "darknet17"  # timm knows its shape, but has no weights
    with pytest.raises(ValueError, match=r"no pretrained weights.*pretrained=false"):
        model(name, pretrained=True).check()


def test_without_a_network_the_error_says_what_to_do_instead(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="of 'test_resnet' could not be loaded") as caught:
        model(pretrained=True).load(None)
    assert "model.checkpoint=FILE, or model.pretrained=false" in str(caught.value)
    assert len(str(caught.value)) < 800


def test_the_config_file_needs_a_name_only(request):
    cfg = OmegaConf.load(request.config.rootpath / "conf" / "model" / "timm.yaml")
    cfg.name = "resnet18"
    built = instantiate(cfg, _convert_="all")
    assert (built.name, built.pretrained, built.checkpoint) == ("resnet18", True, None)
