"""Which class a folder stands for: by name, by synset, by number, by rank."""

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from evaluation.class_folders import labels_of
from evaluation.imagenet import ImageNet, index

HERE = Path("my folder")
NETWORK = ("zebra", "cat", "dog")


class Named(nn.Module):
    names = NETWORK

    def forward(self, x):
        return torch.zeros(len(x), 3)


def folders(root: Path, names) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (number, 40 * i, 9)).save(root / name / f"{i}.png")
    return root


def imagenet(root: Path, **settings) -> ImageNet:
    defaults = {"batch_size": 4, "workers": 0, "skip_bad": False, "images": None, "classes": None}
    return ImageNet(str(root), None, **(defaults | settings))


@pytest.mark.parametrize("classes", [12, 1000])
def test_every_folder_named_by_its_number_gets_it(tmp_path, classes):
    for number in range(classes):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / str(number) / "a.bmp")
    samples = index(tmp_path, classes)
    assert all(int(n.split("/")[0]) == y for n, y in zip(samples.ids, samples.labels, strict=True))


def test_some_of_the_numbers_are_enough_and_zeros_before_them_do_not_count():
    assert labels_of(HERE, ["10", "2"], 12) == {"10": 10, "2": 2}
    assert labels_of(HERE, ["007", "010"], 12) == {"007": 7, "010": 10}


def test_numbers_that_begin_elsewhere_are_ranked_as_numbers():
    found = [str(i) for i in range(1, 13)]
    assert labels_of(HERE, found, 12) == {name: i for i, name in enumerate(found)}
    assert labels_of(HERE, found, 12, order="text")["10"] == 1


def test_folders_follow_the_names_of_the_network():
    assert labels_of(HERE, ["cat", "dog", "zebra"], 3, NETWORK) == {"cat": 1, "dog": 2, "zebra": 0}
    assert labels_of(HERE, ["Dog"], 3, NETWORK) == {"Dog": 2}
    with pytest.raises(ValueError, match="my folder: 'ant' of 2 classes"):
        labels_of(HERE, ["ant", "cat"], 3, NETWORK)
    with pytest.raises(ValueError, match="my folder: 'a', 'b', 'c' of 3 classes"):
        labels_of(HERE, ["a", "b", "c"], 3, NETWORK)
    assert labels_of(HERE, ["a", "b", "c"], 3, NETWORK, "text") == {"a": 0, "b": 1, "c": 2}
    assert labels_of(HERE, ["0", "2"], 3, NETWORK) == {"0": 0, "2": 2}


@pytest.mark.parametrize("found", [["class10", "class9"], ["Zebra", "ant"]])
def test_an_order_that_libraries_do_not_agree_on_must_be_given(found):
    with pytest.raises(ValueError, match=rf"class 0 is {found[0]}.*text .*but {found[1]}.*timm"):
        labels_of(HERE, sorted(found), 2)
    assert list(labels_of(HERE, found, 2, order="text")) == sorted(found)
    assert list(labels_of(HERE, found, 2, order="natural")) == sorted(found)[::-1]


def test_timms_own_reader_numbers_folders_as_natural_does(tmp_path):
    from timm.data.readers.reader_image_folder import find_images_and_targets

    names = ["b2", "b10", "A1", "c"]
    _, theirs = find_images_and_targets(str(folders(tmp_path, names)))
    assert labels_of(HERE, sorted(names), 4, order="natural") == theirs


def test_torchvisions_own_reader_numbers_folders_as_text_does(tmp_path):
    from torchvision.datasets import ImageFolder

    names = ["b2", "b10", "A1", "c"]
    theirs = ImageFolder(str(folders(tmp_path, names))).class_to_idx
    assert labels_of(HERE, sorted(names), 4, order="text") == theirs


def test_classes_are_counted_where_no_number_is_given(tmp_path):
    folders(tmp_path / "val", ["cat", "dog"])
    folders(tmp_path / "train", ["ant", "cat", "dog"])
    data = imagenet(tmp_path)
    _, evaluation = data.pools()
    assert data.classes == 3 and set(evaluation.labels) == {1, 2}, "val lacks a class"
    assert list(data.names) == ["ant", "cat", "dog"]


def test_the_networks_outputs_are_the_number_of_classes_where_none_is_given(tmp_path):
    root = folders(tmp_path, ["cat", "dog"])
    data = imagenet(root)
    data.network_names = NETWORK
    data.check_network(Named(), "net", torch.zeros(1, 3, 8, 8))
    _, evaluation = data.pools()
    assert data.classes == 3 and set(evaluation.labels) == {1, 2}
    data.check_network(Named(), "net", torch.zeros(1, 3, 8, 8))


def test_a_network_of_more_outputs_than_folders_needs_no_number_of_classes_either(tmp_path):
    data = imagenet(folders(tmp_path, ["2", "10"]))
    data.check_network(nn.Sequential(nn.Flatten(), nn.Linear(192, 12)), "net", torch.zeros(1, 192))
    assert set(data.pools()[1].labels) == {2, 10} and data.classes == 12


def test_given_names_go_before_those_of_the_network(tmp_path):
    data = imagenet(folders(tmp_path, ["Hund", "Katze"]), names=["Katze", "Hund"])
    data.network_names = ("cat", "dog")
    _, evaluation = data.pools()
    assert dict(zip(evaluation.ids, evaluation.labels, strict=True))["Hund/0.png"] == 1


def test_a_network_whose_names_are_in_another_order_is_refused(tmp_path):
    data = imagenet(folders(tmp_path, ["cat", "dog", "zebra"]))
    data.pools()
    with pytest.raises(ValueError, match="class 0 is 'cat' in the data set, but 'zebra' in model"):
        data.check_network(Named(), "net", torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("parts", list(itertools.combinations(("train", "Test", "testing"), 2)))
def test_parts_of_a_data_set_are_no_classes(tmp_path, parts):
    for part in parts:
        folders(tmp_path / part, ["cat", "dog"])
    with pytest.raises(ValueError, match="parts of a data set and no classes"):
        imagenet(tmp_path).pools()


@pytest.mark.parametrize("part", ["val", "valid", "validation", "test"])
def test_the_part_to_evaluate_on_has_one_of_its_usual_names(tmp_path, part):
    folders(tmp_path / part, ["cat", "dog"])
    folders(tmp_path / "train", ["cat", "dog", "zebra"])
    calibration, evaluation = imagenet(tmp_path).pools()
    assert (len(calibration), len(evaluation)) == (9, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 1}, r"data\.classes=1 must be at least 2"),
        ({"class_order": "size"}, r"data\.class_order=size must be text or natural, or null"),
        ({"classes": 3, "names": ["a", "b"]}, r"data\.names has 2 names, but data\.classes=3"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        imagenet(tmp_path, **settings)
