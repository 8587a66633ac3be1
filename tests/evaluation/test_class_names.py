"""Classes by their names: what networks carry, and how data sets are matched to it."""

import pytest
from torch import nn

from evaluation.class_names import indices, names_of, require_same


class Holder(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Config:
    def __init__(self, id2label):
        self.id2label = id2label


@pytest.mark.parametrize(
    "network",
    [
        Holder(names=["cat", "dog"]),
        Holder(names={1: "dog", 0: "cat"}),
        Holder(config=Config({"0": "cat", "1": "dog"})),
        Holder(pretrained_cfg={"label_names": ["cat", "dog"]}),
        Holder(model=Holder(names={0: "cat", 1: "dog"})),
        Holder(names={0: "0", 1: "1"}, config=Config({0: "cat", 1: "dog"})),
    ],
)
def test_names_are_found_where_libraries_put_them(network):
    assert names_of(network) == ("cat", "dog")


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(2, 2),
        Holder(names={0: "0", 1: "1", 2: "2"}),
        Holder(names=["class_0", "class_1"]),
        Holder(config=Config({0: "LABEL_0", 1: "LABEL_1"})),
        Holder(names={0: "cat", 2: "dog"}),
        Holder(names="cat"),
        Holder(pretrained_cfg={"label_names": None}),
        Holder(names=()),
    ],
)
def test_numbered_placeholders_and_gaps_are_no_names(network):
    assert names_of(network) == ()


def test_classes_are_found_by_name_whatever_their_order_and_spelling():
    network = ("hair drier", "Cat", "tv/monitor", "dog")
    assert indices(("dog", "cat"), network, "x") == [3, 1]
    assert indices(("hair_drier", "TVmonitor"), network, "x") == [0, 2]


def test_a_class_that_the_network_lacks_is_named_with_what_it_has():
    with pytest.raises(
        ValueError, match=r"my data: 'bolt' of 2 classes.*'cat', 'dog'.*data\.names"
    ):
        indices(("cat", "bolt"), ("cat", "dog"), "my data")


def test_two_classes_of_one_name_cannot_be_told_apart():
    for own, network in ((("crane",), ("crane", "cat", "crane")), (("a", "A"), ("a", "b"))):
        with pytest.raises(ValueError, match="several classes have the same name"):
            indices(own, network, "x")


def test_another_order_than_the_networks_names_the_first_class_that_differs():
    require_same(("cat", "dog"), Holder(names=["Cat", "dog"]), "net")
    require_same(("cat", "dog"), nn.Identity(), "net")
    with pytest.raises(
        ValueError, match="class 1 is 'ant' in the data set, but 'dog' in model net"
    ):
        require_same(("cat", "ant", "dog"), Holder(names=["cat", "dog", "ant"]), "net")
