"""The tensor in outputs of other kinds."""

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from evaluation.imagenet import ImageNet
from pipelines.models.network import Network
from pipelines.models.outputs import TakeTensor
from pipelines.preflight import task_fits

CONFIG = {
    "input_size": [3, 8, 8], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3,
    "crop_pct": 1.0, "crop_mode": "center",
}  # fmt: skip
RIGHT, WRONG = torch.ones(1, 2), torch.zeros(1, 2)
Pair = namedtuple("Pair", "aux logits")


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Odd(Mapping):
    def __getitem__(self, key):
        return {"x": None, "y": RIGHT}[key]

    def __iter__(self):
        return iter("xy")

    def __len__(self):
        return 2


OUTPUTS = {
    "'out' of a dict": {"aux": WRONG, "out": RIGHT},
    "'logits' of a dict": {"aux": WRONG, "out": WRONG, "logits": RIGHT},
    "'y' of a Odd": Odd(),
    "0 of a tuple": (RIGHT, WRONG),
    "1 of a list": [None, RIGHT, WRONG],
    "'logits' of a Pair": Pair(WRONG, RIGHT),
    "'logits' of a Output": Output(None, RIGHT),
}


@pytest.mark.parametrize(("taken", "outputs"), OUTPUTS.items(), ids=OUTPUTS.keys())
def test_logits_or_out_or_the_first_tensor_is_taken(taken, outputs):
    take = TakeTensor()
    assert take(nn.Identity(), (), outputs) is RIGHT
    assert take.taken == taken


@pytest.mark.parametrize("outputs", [RIGHT, {"a": 1}, (), None, "x", {"a": {"logits": RIGHT}}])
def test_a_tensor_and_what_holds_none_stay_as_they_are(outputs):
    take = TakeTensor()
    assert take(nn.Identity(), (), outputs) is None
    assert take.taken == ""


class Classifier(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.head, self.wrap = nn.Linear(3, 4), wrap

    def forward(self, x):
        return self.wrap(self.head(x.mean((2, 3))))


def fits(wrap):
    network = Network.of(Classifier(wrap), "net", CONFIG)
    data = ImageNet(None, None, 1, 0, False, None, 4)
    return task_fits(network, data), network.module


def test_a_classifier_that_gives_a_dict_gives_its_tensor_from_then_on():
    taken, module = fits(lambda y: {"features": y[:, :1], "out": y})
    assert taken == "'out' of a dict"
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(module(x), module.head(x.mean((2, 3))))


def test_a_classifier_that_gives_a_tensor_is_left_alone():
    taken, module = fits(lambda y: y)
    assert taken == "" and not module._forward_hooks


def test_outputs_without_a_tensor_are_named():
    with pytest.raises(ValueError, match="model net is no classifier: it gives a dict"):
        fits(lambda y: {"probabilities": y.tolist()})
