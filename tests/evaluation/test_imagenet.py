"""Both layouts of image folders, with a few real photographs and with damaged ones."""

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image
from timm.data import ImageNetInfo

from evaluation.imagenet import ImageNet

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.875,
}


def imagenet(root, calibration_root=None, classes=3, **settings) -> ImageNet:
    defaults = {"batch_size": 4, "workers": 0, "skip_bad": False, "images": None}
    calibration_root = calibration_root and str(calibration_root)
    return ImageNet(root and str(root), calibration_root, classes=classes, **(defaults | settings))


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((40, 40)).point(lambda p: (p + 3 * value) % 256).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def class_folders(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            start += 1
            (root / name / f"{name}_{i}.JPEG").write_bytes(picture(start))
    return root


def flat(root: Path, lines: list[str], files: list[str], start: int = 100) -> Path:
    (root / "images").mkdir(parents=True)
    for i, name in enumerate(files):
        (root / "images" / name).write_bytes(picture(start + i))
    (root / "labels.txt").write_text("".join(f"{line}\n" for line in lines))
    return root


def test_real_images_come_from_the_validation_folder_and_calibration_from_training(data_root):
    data = imagenet(data_root, classes=1000, images=12)
    data.prepare(CONFIG | {"input_size": (3, 224, 224)}, 6, seed=0, calibration_batch_size=4)
    assert all("ILSVRC2012_val" in name for name in data.evaluation.ids)
    assert all(name.startswith("images/n0") or name[7] == "n" for name in data.calibration.ids)
    data.check()
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (4, 3, 224, 224)
    assert y.tolist() == list(data.evaluation.labels[:4])
    assert -1 <= x.min() < -0.5 < 0.5 < x.max() <= 1


def test_all_real_labels_are_those_of_the_list(data_root):
    _, evaluation = imagenet(data_root, classes=1000).pools()
    lines = (data_root / "imagenet_val700" / "labels.txt").read_text().split()
    expected = {f"images/{name}": int(y) for name, y in zip(lines[::2], lines[1::2], strict=True)}
    assert dict(zip(evaluation.ids, evaluation.labels, strict=True)) == expected
    assert len(evaluation) == 700


def test_class_folders_are_numbered_in_sorted_order(tmp_path):
    root = class_folders(tmp_path / "val", {"zebra": 1, "ant": 2, "cat": 1})
    _, evaluation = imagenet(root).pools()
    assert dict(zip(evaluation.ids, evaluation.labels, strict=True)) == {
        "ant/ant_0.JPEG": 0,
        "ant/ant_1.JPEG": 0,
        "cat/cat_0.JPEG": 1,
        "zebra/zebra_0.JPEG": 2,
    }


def test_val_and_train_inside_the_root_are_found(tmp_path):
    class_folders(tmp_path / "val", {"a": 1, "b": 1, "c": 1})
    class_folders(tmp_path / "train", {"a": 3, "b": 3, "c": 3}, start=20)
    calibration, evaluation = imagenet(tmp_path).pools()
    assert (len(calibration), len(evaluation)) == (9, 3)


def test_an_own_calibration_root_goes_before_the_train_folder(tmp_path):
    class_folders(tmp_path / "val", {"a": 1, "b": 1, "c": 1})
    class_folders(tmp_path / "train", {"a": 3, "b": 3, "c": 3}, start=20)
    own = flat(tmp_path / "own", ["x.jpg 0", "y.jpg 2"], ["x.jpg", "y.jpg"])
    calibration, _ = imagenet(tmp_path, own).pools()
    assert calibration.ids == ("images/x.jpg", "images/y.jpg")
    assert calibration.labels == (0, 2)


def test_without_a_train_folder_both_uses_share_the_images_and_none_is_used_twice(tmp_path):
    root = class_folders(tmp_path / "val", {"a": 5, "b": 5, "c": 5})
    for data in (
        imagenet(root),
        imagenet(tmp_path),
        imagenet(root, root),
        imagenet(root, tmp_path),
    ):
        data.prepare(CONFIG, 6, seed=0, calibration_batch_size=4)
        assert len(data.evaluation) == 9
        assert not set(data.calibration.ids) & set(data.evaluation.ids)


def test_a_calibration_image_that_lies_elsewhere_under_another_name_is_not_evaluated(tmp_path):
    root = class_folders(tmp_path / "val", {"a": 2, "b": 2, "c": 2})
    other = flat(tmp_path / "other", ["new.jpg 1", "copy.jpg 2"], ["new.jpg", "copy.jpg"])
    shutil.copy(root / "b" / "b_1.JPEG", other / "images" / "copy.jpg")
    data = imagenet(root, other)
    data.prepare(CONFIG, 2, seed=0, calibration_batch_size=4)
    assert "b/b_1.JPEG" not in data.evaluation.ids
    assert len(data.evaluation) == 5


def test_a_subset_of_imagenets_synsets_keeps_their_indices(tmp_path):
    synsets = ImageNetInfo("imagenet-1k").label_names()
    class_folders(tmp_path / "val", {synsets[i]: 1 for i in (7, 500, 999)})
    _, evaluation = imagenet(tmp_path, classes=1000).pools()
    assert evaluation.labels == (7, 500, 999)


@pytest.mark.parametrize("classes", [2, 4, 1000])
def test_another_number_of_class_folders_than_classes_is_an_error(tmp_path, classes):
    class_folders(tmp_path / "val", {"a": 1, "b": 1, "c": 1})
    with pytest.raises(ValueError, match=rf"3 class folders .*data\.classes={classes}.*classes=3"):
        imagenet(tmp_path, classes=classes).pools()


def test_a_class_without_images_still_counts_as_one(tmp_path):
    class_folders(tmp_path / "val", {"a": 1, "b": 0, "c": 1})
    _, evaluation = imagenet(tmp_path).pools()
    assert evaluation.labels == (0, 2)


def test_files_that_are_no_images_are_left_alone(tmp_path):
    root = class_folders(tmp_path / "val", {"a": 1, "b": 1, "c": 1})
    (root / "a" / ".hidden.jpg").write_bytes(b"x")
    (root / "a" / "notes.txt").write_bytes(b"x")
    (root / ".cache").mkdir()
    assert len(imagenet(tmp_path).pools()[1]) == 3


def test_empty_and_missing_folders_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    class_folders(tmp_path / "hollow", {"a": 0, "b": 0, "c": 0})
    flat(tmp_path / "flat", [], [])
    (tmp_path / "unlabelled" / "images").mkdir(parents=True)
    for name, message in [
        ("empty", "neither one folder per class nor images/ with labels.txt"),
        ("unlabelled", "neither one folder per class nor images/ with labels.txt"),
        ("hollow", "holds no images"),
        ("flat", "holds no images"),
        ("nowhere", "is not a folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            imagenet(tmp_path / name).pools()
    with pytest.raises(ValueError, match=r"data\.root=/path/to/imagenet"):
        imagenet(None).pools()


@pytest.mark.parametrize(
    ("lines", "files", "message"),
    [
        (["x.jpg 0", "y.jpg 1"], ["x.jpg"], r"lists missing files: images/y\.jpg \(1 in total\)"),
        (["x.jpg 0"], ["x.jpg", "y.jpg"], r"does not list: images/y\.jpg \(1 in total\)"),
        (["x.jpg 0", "y.jpg"], ["x.jpg", "y.jpg"], "line 2 is 'y.jpg'"),
        (["x.jpg zero"], ["x.jpg"], "line 1 is 'x.jpg zero'"),
        (["x.jpg 0", "x.jpg 1"], ["x.jpg"], "line 2 lists x.jpg twice"),
    ],
)
def test_a_list_that_does_not_fit_the_files_is_an_error_that_names_them(
    tmp_path, lines, files, message
):
    with pytest.raises(ValueError, match=message):
        imagenet(flat(tmp_path / "flat", lines, files)).pools()


def test_names_with_spaces_and_tabs_before_the_label_are_read(tmp_path):
    root = flat(tmp_path / "f", ["my cat.jpg 2", "", "b.jpg\t1"], ["my cat.jpg", "b.jpg"])
    _, evaluation = imagenet(root).pools()
    assert dict(zip(evaluation.ids, evaluation.labels, strict=True)) == {
        "images/my cat.jpg": 2,
        "images/b.jpg": 1,
    }


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_a_label_out_of_range_is_counted_and_named(tmp_path, label):
    root = flat(tmp_path / "f", ["x.jpg 0", f"y.jpg {label}"], ["x.jpg", "y.jpg"])
    expected = rf"1 of 2 .*outside 0\.\.2: images/y\.jpg has {label}.*data\.classes"
    with pytest.raises(ValueError, match=expected):
        imagenet(root).prepare(CONFIG, 1, seed=0, calibration_batch_size=1)


def test_grey_and_cmyk_photographs_become_three_channels(tmp_path):
    root = flat(tmp_path / "f", [f"{m}.jpg 0" for m in ("L", "CMYK", "RGB")], [])
    image = Image.linear_gradient("L").resize((48, 48)).convert("RGB")
    for mode in ("L", "CMYK", "RGB"):
        image.convert(mode).save(root / "images" / f"{mode}.jpg")
    (root / "images" / "other.png").write_bytes(picture(1))
    (root / "labels.txt").write_text("L.jpg 0\nCMYK.jpg 0\nRGB.jpg 0\nother.png 1\n")
    data = imagenet(root)
    data.prepare(CONFIG, 1, seed=0, calibration_batch_size=1)
    data.evaluation = data.pools()[1]
    x = dict(zip(data.evaluation.ids, next(iter(data.test_dataloader()))[0], strict=True))
    for mode in ("L", "CMYK"):
        assert x[f"images/{mode}.jpg"].shape == (3, 32, 32)
        assert (x[f"images/{mode}.jpg"] - x["images/RGB.jpg"]).abs().max() < 0.1


def damaged(tmp_path: Path) -> Path:
    root = class_folders(tmp_path / "val", {"a": 6, "b": 6, "c": 6})
    whole = picture(77)
    (root / "b" / "b_2.JPEG").write_bytes(whole[: len(whole) // 2])
    (root / "c" / "c_4.JPEG").write_bytes(b"<html>404</html>")
    return root


def test_truncated_images_are_counted_and_named_before_anything_is_computed(tmp_path):
    data = imagenet(damaged(tmp_path))
    data.prepare(CONFIG, 6, seed=0, calibration_batch_size=4)
    with pytest.raises(ValueError, match=r"2 of 18 images cannot be read") as error:
        data.check()
    assert "b/b_2.JPEG: OSError" in str(error.value)
    assert "c/c_4.JPEG: UnidentifiedImageError" in str(error.value)
    assert "data.skip_bad=true" in str(error.value)


def test_skip_bad_drops_the_unreadable_ones_only_and_keeps_a_record(tmp_path):
    data = imagenet(damaged(tmp_path), skip_bad=True)
    data.prepare(CONFIG, 6, seed=0, calibration_batch_size=4)
    before = (data.calibration_key, data.evaluation_key)
    seen: list[tuple[int, int]] = []
    data.check(lambda done, total: seen.append((done, total)))
    assert set(data.skipped) == {"b/b_2.JPEG", "c/c_4.JPEG"}
    assert len(data.calibration) + len(data.evaluation) == 16
    assert not set(data.skipped) & {*data.calibration.ids, *data.evaluation.ids}
    assert seen == [(i, 18) for i in range(1, 19)]
    assert (data.calibration_key, data.evaluation_key) != before
    assert sum(len(y) for _, y in data.test_dataloader()) == len(data.evaluation)


def test_images_of_which_none_can_be_read_are_an_error_even_when_skipping(tmp_path):
    root = flat(tmp_path / "f", ["x.jpg 0", "y.jpg 1"], ["x.jpg", "y.jpg"])
    for i, path in enumerate((root / "images").iterdir()):
        path.write_bytes(b"broken" * (i + 1))
    data = imagenet(root, skip_bad=True)
    data.prepare(CONFIG, 1, seed=0, calibration_batch_size=1)
    with pytest.raises(ValueError, match="none of the 1 calibration images can be read"):
        data.check()


def test_more_than_five_unreadable_images_are_counted_but_not_all_named(tmp_path):
    root = class_folders(tmp_path / "val", {"a": 4, "b": 4, "c": 4})
    for i, path in enumerate(sorted(root.glob("*/*.JPEG"))[:7]):
        path.write_bytes(b"x" * (i + 1))
    data = imagenet(root)
    data.prepare(CONFIG, 3, seed=0, calibration_batch_size=4)
    with pytest.raises(ValueError, match=r"7 of 12 images cannot be read") as error:
        data.check()
    assert str(error.value).count("UnidentifiedImageError") == 5
    assert "and 2 more" in str(error.value)


def test_a_bad_calibration_image_does_not_drop_the_evaluation_image_of_the_same_name(tmp_path):
    names = ["x.jpg", "y.jpg"]
    root = flat(tmp_path / "val", ["x.jpg 0", "y.jpg 1"], names, start=1)
    other = flat(tmp_path / "train", ["x.jpg 0", "y.jpg 1"], names, start=20)
    (other / "images" / "x.jpg").write_bytes(b"broken")
    data = imagenet(root, other, skip_bad=True)
    data.prepare(CONFIG, 2, seed=0, calibration_batch_size=1)
    data.check()
    assert data.calibration.ids == ("images/y.jpg",)
    assert data.evaluation.ids == ("images/x.jpg", "images/y.jpg")
