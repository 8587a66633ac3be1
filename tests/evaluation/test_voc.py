"""Layouts of Pascal VOC, with pictures made here and with real ones."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from evaluation.voc import NAMES, Voc, colour
from pipelines.cli.overrides import CONF

CONFIG = {
    "input_size": (3, 64, 64),
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 1.0,
    "crop_mode": "squash",
}
README = {  # model: (mean IoU over seven classes, pixel accuracy), on all 200 images
    "deeplabv3_mobilenet_v2": (80.3, 93.9),
    "espnetv2": (70.4, 91.9),
}


def voc(root, calibration_root=None, **settings) -> Voc:
    defaults = {"batch_size": 4, "workers": 0, "skip_bad": False, "images": None, "masks": None}
    defaults |= {"split": None, "report_classes": None}
    calibration_root = calibration_root and str(calibration_root)
    return Voc(root and str(root), calibration_root, **(defaults | settings))


def photo(path, seed, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((36, 24)).convert(mode).save(path)


def folder(root, names="abcdef", masks=("SegmentationClass",), lists=None, masked=None):
    for i, name in enumerate(names):
        photo(root / "JPEGImages" / f"{name}.jpg", i)
    for kind in masks:
        (root / kind).mkdir()
        for i, name in enumerate(names if masked is None else masked):
            mask = Image.fromarray(np.full((24, 36), i, dtype=np.uint8))
            if i % 2:
                mask.putpalette([v for c in range(21) for v in colour(c)])
            mask.save(root / kind / f"{name}.png")
    for name, lines in (lists or {}).items():
        path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))
    return root


def stems(samples):
    return "".join(name.removeprefix("JPEGImages/").removesuffix(".jpg") for name in samples.ids)


def test_real_images_are_found_with_their_masks_and_calibration_images_beside_them(data_root):
    data = voc(data_root, images=8)
    data.prepare(CONFIG, 64, seed=0, calibration_batch_size=4)
    assert (len(data.pools()[1]), len(data.calibration)) == (200, 64)
    assert all(label.startswith("SegmentationClassAug/") for label in data.evaluation.labels)
    data.check()
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (4, 3, 64, 64) and max(y.shape[1:]) == 500
    assert set(y.unique().tolist()) <= {-1, *range(21), 255} and (y == 255).any()
    assert -1 <= x.min() < -0.5 < 0.5 < x.max() <= 1


def test_classes_and_colours_are_those_of_the_data_set():
    assert (len(NAMES), NAMES[0], NAMES[15], NAMES[20]) == (
        21,
        "background",
        "person",
        "tv/monitor",
    )
    assert [colour(i) for i in (0, 1, 8, 12)] == [(0, 0, 0), (128, 0, 0), (64, 0, 0), (64, 0, 128)]


def test_palette_and_greyscale_masks_are_read_as_class_indices(tmp_path):
    data = voc(folder(tmp_path))
    data.prepare(CONFIG, 1, seed=0, calibration_batch_size=1)
    data.evaluation = data.pools()[1]
    modes = {Image.open(tmp_path / label).mode for label in data.evaluation.labels}
    assert modes == {"P", "L"}
    masks = torch.cat([y for _, y in data.test_dataloader()])
    assert [mask.unique().tolist() for mask in masks] == [[i] for i in range(6)]


@pytest.mark.parametrize("inside", ["VOC2012", "VOCdevkit/VOC2012", "."])
def test_the_train_list_is_for_calibration_and_the_split_for_evaluation(tmp_path, inside):
    lists = {"train": ["e", "b"], "val": ["d", "a"]}
    folder(tmp_path / inside, lists=lists)
    calibration, evaluation = voc(tmp_path, split="val").pools()
    assert (stems(calibration), stems(evaluation)) == ("eb", "da")
    assert evaluation.labels == ("SegmentationClass/d.png", "SegmentationClass/a.png")
    assert set(calibration.labels) == {""}
    assert stems(voc(tmp_path).pools()[1]) == "abcdef"


def test_lists_with_paths_of_image_and_mask_are_read(tmp_path):
    lines = ["/JPEGImages/c.jpg /SegmentationClass/c.png", "", "f"]
    folder(tmp_path, lists={"val": lines})
    assert stems(voc(tmp_path, split="val").pools()[1]) == "cf"


def test_without_a_train_list_no_image_is_used_twice(tmp_path):
    data = voc(folder(tmp_path, masked="bcdef"))
    data.prepare(CONFIG, 3, seed=0, calibration_batch_size=1)
    assert stems(data.pools()[0]) == "abcdef"
    assert sorted({*stems(data.calibration), *stems(data.evaluation)} | {"a"}) == list("abcdef")
    assert not set(data.calibration.ids) & set(data.evaluation.ids)


def test_any_folder_of_images_will_do_for_calibration_whatever_their_colours(tmp_path):
    for i, mode in enumerate(("L", "CMYK", "RGB")):
        photo(tmp_path / "own" / f"{mode}.jpg", i, mode)
    data = voc(folder(tmp_path / "voc"), tmp_path / "own")
    data.prepare(CONFIG, 3, seed=0, calibration_batch_size=3)
    data.check()
    x, _ = next(iter(data.calibration_loader()))
    assert x.shape == (3, 3, 64, 64)
    assert sorted(data.calibration.ids) == ["CMYK.jpg", "L.jpg", "RGB.jpg"]


def test_only_the_images_with_a_mask_are_evaluated(tmp_path):
    _, evaluation = voc(folder(tmp_path, masked="bd")).pools()
    assert stems(evaluation) == "bd"


def test_of_several_folders_of_masks_one_must_be_chosen(tmp_path):
    folder(tmp_path, masks=("SegmentationClass", "SegmentationClassAug"))
    with pytest.raises(ValueError, match=r"SegmentationClass, SegmentationClassAug.*data\.masks="):
        voc(tmp_path).pools()
    _, evaluation = voc(tmp_path, masks="SegmentationClassAug").pools()
    assert evaluation.labels[0] == "SegmentationClassAug/a.png"
    with pytest.raises(ValueError, match=r"masks=Other: .*choose one of SegmentationClass, Seg"):
        voc(tmp_path, masks="Other").pools()


@pytest.mark.parametrize(
    ("made", "settings", "message"),
    [
        ({"masks": ()}, {}, r"has no folder SegmentationClass\*.*set data\.masks"),
        ({"masks": ()}, {"masks": "M"}, r"data\.masks=M: .*no such folder of masks: it has none"),
        ({"masked": ""}, {}, r"SegmentationClass holds no images \(\.png\)"),
        ({"masked": "xyz"}, {}, "none of the 6 images in JPEGImages has a mask .* the 3 .png"),
        ({}, {"split": "val"}, r"data\.split=val: the list .*val\.txt does not exist.*: none"),
        ({"lists": {"train": ["a"]}}, {"split": "val"}, "Available: train"),
        ({"lists": {"val": []}}, {"split": "val"}, r"val\.txt lists no images"),
        ({"lists": {"val": ["a", "z"]}}, {"split": "val"}, r"1 images .*JPEGImages: z\. Add"),
        ({"lists": {"train": ["a", "z"]}}, {}, r"train\.txt lists 1 images .*JPEGImages: z\."),
        (
            {"lists": {"val": list("abcdef")}, "masked": "a"},
            {"split": "val"},
            r"5 images that are not in .*SegmentationClass: b, c, d, e, f\.",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, made, settings, message):
    with pytest.raises(ValueError, match=message):
        voc(folder(tmp_path, **made), **settings).pools()


def test_empty_and_missing_folders_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "hollow" / "SegmentationClass").mkdir()
    for name, message in [
        ("empty", r"has no folder SegmentationClass\*"),
        ("nowhere", r"has no folder SegmentationClass\*"),
        ("hollow", "JPEGImages holds no images"),
    ]:
        with pytest.raises(ValueError, match=message):
            voc(tmp_path / name).pools()
    with pytest.raises(ValueError, match=r"data\.root=/path/to/VOC2012"):
        voc(None).pools()
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        voc(folder(tmp_path / "voc"), tmp_path / "nowhere").pools()


def configured(name, data_root, monkeypatch, images):
    monkeypatch.setenv("OBLIQ_DATA", str(data_root))
    model = instantiate(OmegaConf.load(CONF / "model" / f"{name}.yaml"), _convert_="all")
    settings = OmegaConf.load(CONF / "data" / "voc.yaml")
    settings.images, settings.workers = images, 0
    data = instantiate(settings, _convert_="all")
    network = model.load(store=None)
    data.prepare(network.data_config, 1, seed=0, calibration_batch_size=1)
    return data, network


def evaluated(data, network):
    with torch.inference_mode():
        parts = [data.outputs(network.module, None, batch) for batch in data.test_dataloader()]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("name", README)
def test_float_metrics_equal_those_of_an_independent_loop(name, data_root, monkeypatch):
    data, network = configured(name, data_root, monkeypatch, images=8)
    root, config = data_root / "voc_val200", network.data_config
    side = config["input_size"][1]
    mean, std = (np.array(config[key], dtype=np.float32) for key in ("mean", "std"))
    both, either = np.zeros(21), np.zeros(21)
    right = total = 0
    for label in data.evaluation.labels:
        stem = label.rpartition("/")[2].removesuffix(".png")
        image, mask = Image.open(root / "JPEGImages" / f"{stem}.jpg"), Image.open(root / label)
        own = image if config["crop_mode"] == "pad" else image.resize((side, side), Image.BILINEAR)
        x = np.zeros((side, side, 3), dtype=np.float32)
        x[: own.height, : own.width] = (np.array(own, dtype=np.float32) / 255 - mean) / std
        with torch.inference_mode():
            logits = network.module(torch.from_numpy(x.transpose(2, 0, 1))[None])[0]
        best = logits[:, : own.height, : own.width].argmax(0).numpy().astype(np.uint8)
        answer = np.array(Image.fromarray(best).resize(image.size, Image.NEAREST))
        truth = np.array(mask)
        answer, truth = answer[truth != 255], truth[truth != 255]
        right, total = right + (answer == truth).sum(), total + len(truth)
        for c in range(21):
            both[c] += ((answer == c) & (truth == c)).sum()
            either[c] += ((answer == c) | (truth == c)).sum()
    found = data.metrics(evaluated(data, network))
    there = either > 0
    assert found["miou"] == pytest.approx(100 * np.mean(both[there] / either[there]), abs=0.01)
    assert found["pixel_accuracy"] == pytest.approx(100 * right / total, abs=0.01)
    seven = [c for c in (0, 8, 10, 12, 13, 15, 17) if either[c]]
    expected = 100 * np.mean(both[seven] / either[seven])
    assert found["miou_subset"] == pytest.approx(expected, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize("name", README)
def test_float_metrics_on_all_images_are_those_that_came_with_the_weights(
    name, data_root, monkeypatch
):
    data, network = configured(name, data_root, monkeypatch, images=None)
    assert len(data.evaluation) == 200
    found = data.metrics(evaluated(data, network))
    assert found["miou_subset"] == pytest.approx(README[name][0], abs=0.5)
    assert found["pixel_accuracy"] == pytest.approx(README[name][1], abs=0.5)


def test_names_with_dots_are_found_with_and_without_a_list(tmp_path):
    names = ["img_jpg.rf.0a1b2c", "a.v1", "a.v2"]
    lists = {"val": ["\ufeffimg_jpg.rf.0a1b2c", "a.v1.jpg\r", "JPEGImages/a.v2.jpg"]}
    root = folder(tmp_path, names, lists=lists)
    listed = voc(root, split="val").pools()[1]
    assert listed.ids == tuple(f"JPEGImages/{name}.jpg" for name in names)
    assert listed.labels == tuple(f"SegmentationClass/{name}.png" for name in names)
    assert sorted(voc(root).pools()[1].ids) == sorted(listed.ids)


def test_two_images_of_one_name_are_named(tmp_path):
    root = folder(tmp_path, "ab")
    photo(root / "JPEGImages" / "b.png", 5)
    with pytest.raises(ValueError, match=r"JPEGImages holds b\.jpg and b\.png"):
        voc(root).pools()


@pytest.mark.parametrize(("listed", "stored"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_a_listed_name_is_found_in_another_unicode_form(tmp_path, listed, stored):
    root = folder(tmp_path, ["a", stored], lists={"val": [listed]})
    assert voc(root, split="val").pools()[1].ids == (f"JPEGImages/{stored}.jpg",)
