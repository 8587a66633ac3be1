"""data.yaml as ultralytics and Roboflow write it."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from evaluation.boxes import Box
from evaluation.coco import Coco
from evaluation.yolo_yaml import find, load

SETTINGS = {
    "calibration_root": None, "batch_size": 2, "workers": 0, "skip_bad": False, "images": None,
    "confidence": 0.001, "iou": 0.7, "max_detections": 5,
}  # fmt: skip
NAMES = ["bolt", "nut", "washer"]


def dataset(root: Path, val="images/val", train="images/train", count=3) -> Path:
    for place, shade in ((val, 0), (train, 90)):
        for i in range(count):
            image = root / place / f"{i}.v1.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (shade + i, 1, 2)).save(image)
            label = root / place.replace("images", "labels") / f"{i}.v1.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{i} 0.5 0.5 0.4 0.4\n")
    return root


def write(root: Path, name="data.yaml", **content) -> Path:
    defaults = {"path": ".", "train": "images/train", "val": "images/val", "names": NAMES}
    whole = {k: v for k, v in (defaults | content).items() if v is not None}
    (root / name).write_text(yaml.safe_dump(whole))
    return root / name


def pools(root, **settings):
    data = Coco(**{**SETTINGS, "root": str(root), **settings})
    return data, *data.pools()


@pytest.mark.parametrize("file", [True, False])
def test_three_classes_are_three_classes(tmp_path, file):
    listing = write(dataset(tmp_path))
    data, calibration, evaluation = pools(listing if file else tmp_path)
    assert list(data.names) == NAMES and data.classes == 3
    assert evaluation.ids == tuple(f"images/val/{i}.v1.png" for i in range(3))
    assert evaluation.labels == tuple((Box(i, 6, 3, 14, 7, 0, 32),) for i in range(3))
    assert calibration.ids == tuple(f"images/train/{i}.v1.png" for i in range(3))


def test_labels_follow_the_names_of_the_network(tmp_path):
    write(dataset(tmp_path))
    data = Coco(**SETTINGS, root=str(tmp_path))
    data.network_names = ("screw", "washer", "nut", "bolt")
    calibration, evaluation = data.pools()
    assert [boxes[0].class_index for boxes in evaluation.labels] == [3, 2, 1]
    assert [boxes[0].class_index for boxes in calibration.labels] == [3, 2, 1]
    assert data.classes == 4 and data.names[3] == "bolt"
    data.network_names = ("bolt", "nut")
    with pytest.raises(ValueError, match=r"'washer' of 3 classes: the network has no such class"):
        data.pools()


@pytest.mark.parametrize("names", [{0: "bolt", 1: "nut", 2: "washer"}, NAMES])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_names_may_be_a_list_or_numbered(tmp_path, names, mark):
    listing = write(dataset(tmp_path), names=names, nc=3)
    listing.write_text(mark + listing.read_text(), encoding="utf-8")
    assert load(listing).names == tuple(NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"names": {1: "bolt", 2: "nut"}}, "`names` must be a list of names, or number: name"),
        ({"names": "bolt"}, "`names` must be a list of names"),
        ({"names": []}, "`names` must be a list of names"),
        ({"nc": 4}, "has nc: 4, but 3 `names`"),
        ({"val": "images/nowhere"}, r"names images/nowhere, but .*nowhere does not exist"),
        ({"val": None}, "has no `val:` images"),
        ({"names": None}, r"has no `names` for its classes: add them, or set data\.names"),
    ],
)
def test_what_cannot_be_right_names_the_file(tmp_path, content, message):
    write(dataset(tmp_path), **content)
    with pytest.raises(ValueError, match=rf"data\.yaml:? {message}"):
        pools(tmp_path)


def test_a_file_that_is_no_yaml_says_so(tmp_path):
    for content, message in [("a: [", "cannot be read as YAML"), ("- 1", "holds no settings")]:
        (tmp_path / "data.yaml").write_text(content)
        with pytest.raises(ValueError, match=message):
            pools(tmp_path)


def test_names_can_be_given_instead(tmp_path):
    write(dataset(tmp_path), names=None)
    assert list(pools(tmp_path, names=["a", "b", "c"])[0].names) == ["a", "b", "c"]


def test_a_class_beyond_the_names_is_named(tmp_path):
    write(dataset(tmp_path), names=NAMES[:2])
    with pytest.raises(ValueError, match=r"2\.v1\.txt line 1 has the class 2.*\(bolt \.\.\. nut\)"):
        pools(tmp_path)


def test_roboflows_paths_that_lead_out_of_the_folder_and_mean_the_folder(tmp_path):
    root = dataset(tmp_path / "export", "valid/images", "train/images")
    write(root, path=None, train="../train/images", val="../valid/images")
    _, calibration, evaluation = pools(root)
    assert evaluation.ids[0] == "valid/images/0.v1.png" and len(evaluation.labels[0]) == 1
    assert calibration.ids[0] == "train/images/0.v1.png" and len(calibration.labels[0]) == 1


@pytest.mark.parametrize("path", ["nowhere/else", None, "absolute"])
def test_the_folder_is_that_of_the_file_where_path_names_none(tmp_path, path):
    root = dataset(tmp_path / "set")
    write(root, path=str(root) if path == "absolute" else path)
    assert len(pools(root)[2]) == 3


def test_parts_may_be_lists_of_folders_and_text_files_of_images(tmp_path):
    dataset(tmp_path, "images/val/a", "images/val/b")
    (tmp_path / "val.txt").write_text("\ufeff./images/val/a/0.v1.png\r\nimages/val/b/1.v1.png\r\n")
    write(tmp_path, val="val.txt", train=["images/val/a", "images/val/b"])
    _, calibration, evaluation = pools(tmp_path)
    assert evaluation.ids == ("images/val/a/0.v1.png", "images/val/b/1.v1.png")
    assert [boxes[0].class_index for boxes in evaluation.labels] == [0, 1]
    assert len(calibration) == 6


def test_a_listed_image_that_is_missing_or_lies_elsewhere_is_named(tmp_path):
    root = dataset(tmp_path / "set")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    write(root, val="val.txt")
    for entry, message in [
        ("images/val/9.png", r"val\.txt line 1 names images/val/9\.png, which does not exist"),
        ("../secret.png", r"val\.txt line 1 names the file '\.\./secret\.png', which lies outside"),
        (str(tmp_path / "secret.png"), "line 1 names the file .* outside"),
    ]:
        (root / "val.txt").write_text(entry)
        with pytest.raises(ValueError, match=message):
            pools(root)


def test_cocos_json_goes_before_a_yaml(tmp_path):
    root = dataset(tmp_path)
    write(root)
    assert find(root) == root / "data.yaml"
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text("{}")
    with pytest.raises(ValueError, match=r"instances_val\.json has no `categories`"):
        pools(root)
