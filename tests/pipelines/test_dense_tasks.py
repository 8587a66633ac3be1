"""Detection and segmentation through the whole chain, by the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.models.yolov5 import YOLOv5
from tests.docs.tiny import DETECTOR as TINY

SHORT = ("method=rtn", "baseline.budget=0", "report.heatmaps=0", "pictures.count=2")


@pytest.fixture
def folder(tmp_path):
    """A COCO folder of coloured rectangles: a grey and a CMYK file among them, ids with gaps."""
    root, draw = tmp_path / "coco", np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train2017", 4), ("val2017", 5)):
        images, annotations = [], []
        (root / "images" / split).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 80, (48, 64, 3), dtype=np.uint8)
            pixels[10:30, 5 + i : 40 + i, i % 3] = 250
            mode = {0: "L", 1: "CMYK"}.get(i, "RGB")
            Image.fromarray(pixels).convert(mode).save(root / "images" / split / f"{i}.jpg")
            images.append({"id": i + 7, "file_name": f"{i}.jpg", "width": 64, "height": 48})
            if i != 2:  # an image without objects
                box = {"bbox": [5 + i, 10, 35, 20], "area": 700, "iscrowd": 0}
                annotations.append(
                    {"id": i, "image_id": i + 7, "category_id": 3 if i % 2 else 90, **box}
                )
        categories = [{"id": 3, "name": "thing"}, {"id": 90, "name": "<other>"}]
        listing = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(listing))
    (tmp_path / "tiny.yaml").write_text(TINY)
    return root


def words(folder):
    return (
        "model=yolo", f"model.name={folder.parent / 'tiny.yaml'}", "model.size=64", "data=coco",
        f"data.root={folder}", "data.workers=0", "calibrate.images=4", "calibrate.batch_size=2",
        "calibrate.positions_per_image=20", *SHORT,
    )  # fmt: skip


def test_a_detector_goes_through_the_whole_chain(obliq, folder):
    found = obliq(*words(folder))
    assert found.status == 0, found.text
    results = found.results
    assert results["metric"] == "map50_95" and set(results["float"]) == {"map50_95", "map50"}
    assert results["n_images"] == 5 and "mAP 50-95" in found.text
    assert set(results["fidelity"]) == {"agreement", "kl", "sqnr_db"}
    assert 0 < results["fidelity"]["sqnr_db"] < 100
    assert set(results["details"]["AP 50-95 by class"]) == {"thing", "<other>"}
    (left,) = results["not_quantized"]
    assert left["name"].endswith("dfl.conv.weight") and "not used" in left["reason"]
    assert len(results["layers"]) == 9
    pictures = sorted((found.folder / "pictures").iterdir())
    assert [p.name for p in pictures] == ["00.jpg", "01.jpg"]
    assert Image.open(pictures[0]).width > 900
    page = (found.folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and "&lt;other&gt;" in page
    again = obliq(*words(folder))
    assert all(again.results["cached"].values())
    assert again.results["quantized"] == results["quantized"]


@pytest.fixture
def without_ultralytics(monkeypatch):
    """Make imports of ultralytics fail, also if another test has imported it."""
    loaded = {name for name in sys.modules if name.split(".")[0] == "ultralytics"}
    for name in loaded | {"ultralytics"}:
        monkeypatch.setitem(sys.modules, name, None)


def test_yolov5n_runs_without_ultralytics(obliq, folder, without_ultralytics):
    torch.manual_seed(0)
    weights = folder.parent / "own.safetensors"
    save_file(YOLOv5(0.0625, 0.33, 2).state_dict(), weights)
    own = (
        "model=yolov5n", "model.build.width=0.0625", "model.build.classes=2",
        f"model.checkpoint={weights}", "model.data_config.input_size=[3,64,64]",
    )  # fmt: skip
    found = obliq(*own, *(w for w in words(folder) if not w.startswith("model")))
    assert found.status == 0, found.text
    assert found.results["model"] == "own" and len(found.results["layers"]) == 60
    assert len(list((found.folder / "pictures").iterdir())) == 2
    other = obliq(*words(folder))
    assert other.status == 1 and "ultralytics, which is not installed" in other.text


def test_another_nms_setting_is_evaluated_again(obliq, folder):
    first = obliq(*words(folder))
    for setting in ("data.iou=0.01", "data.confidence=0.9", "data.max_detections=1"):
        found = obliq(*words(folder), setting)
        cached = found.results["cached"]
        assert not cached["evaluate"] and all(cached[name] for name in ("calibrate", "quantize"))
        assert found.results["fingerprints"] == first.results["fingerprints"]


def test_a_detector_of_other_classes_is_refused_before_calibration(obliq, folder):
    (folder.parent / "tiny.yaml").write_text(TINY.replace("nc: 2", "nc: 3"))
    found = obliq(*words(folder))
    assert found.status == 1 and "has 2 classes" in found.text
    assert "✓ calibrate" not in found.text


def test_a_classifier_is_refused_for_boxes(obliq, folder):
    found = obliq("data=coco", f"data.root={folder}", "calibrate.images=4", "model=digits", *SHORT)
    assert found.status == 1 and "is not letterbox: this data set needs a detector" in found.text


def test_images_that_are_listed_but_missing_are_named(obliq, folder):
    (folder / "images" / "val2017" / "3.jpg").unlink()
    found = obliq(*words(folder))
    assert found.status == 1 and "3.jpg" in found.text and "calibrate " not in found.text


def test_a_segmentation_network_goes_through_the_whole_chain(obliq, data_root):
    found = obliq(
        "experiment=voc_espnetv2", "calibrate.images=2", "data.images=3", "data.workers=0",
        "calibrate.positions_per_image=100", "baseline=none", *SHORT[:1], *SHORT[2:],
    )  # fmt: skip
    assert found.status == 0, found.text
    results = found.results
    assert results["metric"] == "miou" and results["n_images"] == 3
    assert results["float"]["pixel_accuracy"] > 50 > results["drop"]["points"]
    assert 50 < results["fidelity"]["agreement"] < 100
    assert len(list((found.folder / "pictures").iterdir())) == 2
    names = {layer["name"] for layer in results["layers"]}
    assert "base_net.level1.conv" in names and len(names) + len(results["not_quantized"]) > 60
