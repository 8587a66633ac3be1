import functools

import pytest
import torch
from torch import nn

from pipelines.models.network import Network
from pipelines.store import fingerprint

CONFIG = {
    "input_size": [3, 8, 8],
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "crop_pct": 1.0,
    "crop_mode": "center",
}


def net(stride=1, weight=0.5):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride), nn.BatchNorm2d(4))
    for value in module.state_dict().values():
        value.fill_(weight)
    return module


def test_module_becomes_float32_and_eval():
    network = Network.of(net().half().train(), "net", CONFIG)
    assert not any(part.training for part in network.module.modules())
    assert {v.dtype for v in network.module.parameters()} == {torch.float32}


def test_equal_networks_have_equal_keys_whether_the_config_has_lists_or_tuples():
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in CONFIG.items()}
    assert Network.of(net(), "net", CONFIG).key == Network.of(net(), "net", tuples).key


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        (net(weight=0.5000001), "net", CONFIG),
        (net(stride=2), "net", CONFIG),
        (net(), "other", CONFIG),
        (net(), "net", {**CONFIG, "crop_pct": 0.9}),
    ],
    ids=["a weight", "a stride", "the name", "the data config"],
)
def test_key_changes_with(module, name, config):
    assert Network.of(module, name, config).key != Network.of(net(), "net", CONFIG).key


def test_key_changes_with_the_source_of_the_networks_classes(tmp_path, monkeypatch):
    source = tmp_path / "scaled_net.py"
    code = (
        "from torch import nn\nclass Scaled(nn.Identity):\n  def forward(self, x): return x * {}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for factor in (2, 3):
        source.write_text(code.format(factor))
        fingerprint.forget()  # as in a new process
        import scaled_net

        keys.append(Network.of(scaled_net.Scaled(), "net", CONFIG).key)
    assert keys[0] != keys[1]


def test_what_has_built_it_with_its_arguments_is_in_the_key():
    def key(**arguments):
        return Network.of(net(), "net", CONFIG, functools.partial(net, **arguments)).key

    assert key(stride=1) == key(stride=1) != key(stride=2)


class Gained(nn.Linear):
    gain = 1.0


def test_an_attribute_that_no_tensor_and_no_text_shows_is_in_the_key():
    keys = []
    for gain in (1.0, 1.0, -1.0):
        module = Gained(2, 2, bias=False)
        module.weight.data.fill_(1.0)
        module.gain = gain
        keys.append(Network.of(nn.Sequential(module), "net", CONFIG).key)
    assert keys[0] == keys[1] != keys[2]


def test_nan_and_infinity_are_named():
    module = net()
    module[0].weight.data[0, 0, 0, 0] = torch.nan
    module[1].running_var[2] = torch.inf
    with pytest.raises(ValueError, match=r"2 of 7 tensors: 0\.weight, 1\.running_var"):
        Network.of(module, "net", CONFIG)


def test_incomplete_data_config_is_refused():
    config = {k: v for k, v in CONFIG.items() if k != "mean"} | {"crop": 1}
    with pytest.raises(ValueError, match=r"missing \['mean'\], unknown \['crop'\]"):
        Network.of(net(), "net", config)


def test_input_size_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"\[channels, height, width\]"):
        Network.of(net(), "net", {**CONFIG, "input_size": [8, 8]})
