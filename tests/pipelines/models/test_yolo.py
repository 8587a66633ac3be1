"""Detectors: raw maps and their decoding against the originals, and their float figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.coco import Coco
from evaluation.evaluator import CollectOutputs
from pipelines.machine.machine import Machine
from pipelines.models.checkpoint import CheckpointModel
from pipelines.models.yolo import YoloModel
from pipelines.models.yolov5 import YOLOv5
from quant.layers import find

CONFIG = {
    "input_size": [3, 640, 640], "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3,
    "crop_pct": 1.0, "crop_mode": "letterbox",
}  # fmt: skip


@pytest.fixture
def built(monkeypatch, tmp_path):
    """built("yolov8n.yaml") -> Network of random weights, made from ultralytics' definitions."""
    monkeypatch.chdir(tmp_path)

    def network(name):
        torch.manual_seed(0)
        return YoloModel(name, None, 64).load(None)

    return network


def disturb_norms(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.5, 0.5)
            m.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yolov5n.yaml", "yolov10n.yaml"])
def test_decoded_raw_maps_are_what_ultralytics_itself_gives(built, name):
    network = built(name)
    detector = network.module
    disturb_norms(detector)
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = detector(x)
        decoded = detector.decode(maps)
        detector.head.training = False
        theirs, _ = detector.model(x)
        detector.train(False)
    assert [m.shape[2:] for m in maps] == [(8, 12), (4, 6), (2, 3)]
    assert torch.equal(decoded, theirs)
    assert not any(m.training for m in detector.modules() if m is not detector.head)


def test_every_weight_of_the_network_is_a_layer_and_the_decoding_is_named_as_left_alone(built):
    detector = built("yolov8n.yaml").module
    layers, skipped = find(detector, torch.rand(1, 3, 64, 64))
    convolutions = {n for n, m in detector.named_modules() if isinstance(m, nn.Conv2d)}
    assert {s.name for s in skipped} == {"model.model.22.dfl.conv.weight"}
    assert set(layers) == convolutions - {"model.model.22.dfl.conv"}
    assert sum(bool(layer.norm) for layer in layers.values()) == len(layers) - 6


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("yolov8n-cls.yaml", "has the task 'classify'"),
        ("yolov8n-seg.yaml", "has the task 'segment'"),
        ("no-such-file.yaml", "ultralytics cannot load no-such-file.yaml"),
    ],
)
def test_what_is_no_detector_is_refused_by_name(built, name, reason):
    with pytest.raises(ValueError, match=reason):
        built(name)


def test_a_size_that_no_stride_divides_is_refused():
    with pytest.raises(ValueError, match=r"model\.size=100 must be a multiple of 32"):
        YoloModel("yolov8n.pt", None, 100)


def test_anchor_based_boxes_equal_a_loop_over_cells_and_anchors():
    torch.manual_seed(0)
    model = YOLOv5(0.25, 0.33, 2).double().eval()
    anchors = model.model[24].anchors
    anchors.copy_(torch.rand(anchors.shape) * 5)
    maps = [torch.randn(1, 21, 64 // s, 96 // s).double() for s in (8, 16, 32)]
    decoded, n = model.decode(maps), 0
    for level, (stride, raw) in enumerate(zip((8, 16, 32), maps, strict=True)):
        for a in range(3):
            for row in range(raw.shape[2]):
                for column in range(raw.shape[3]):
                    t = raw[0, 7 * a : 7 * a + 7, row, column].sigmoid().tolist()
                    width, height = anchors[level, a].tolist()
                    expected = [
                        (2 * t[0] - 0.5 + column) * stride,
                        (2 * t[1] - 0.5 + row) * stride,
                        (2 * t[2]) ** 2 * width * stride,
                        (2 * t[3]) ** 2 * height * stride,
                        t[4] * t[5],
                        t[4] * t[6],
                    ]
                    assert decoded[0, :, n].tolist() == pytest.approx(expected, rel=1e-9)
                    n += 1
    assert n == decoded.shape[2]


def evaluated(network, data_root, iou, images=None):
    data = Coco(str(data_root), None, 4, 0, False, images, 0.001, iou, 300)
    data.prepare(network.data_config, 1, 0, 1)
    collect = CollectOutputs(data, network.module)
    Machine("cpu", 1, "32-true", None).test("test", collect, data.test_dataloader())
    return data, collect.outputs


@pytest.mark.slow
def test_float_yolov5n_has_the_published_figure(data_root):
    file = data_root / "weights" / "yolov5n_v6.safetensors"
    model = CheckpointModel("yolov5n", lambda: YOLOv5(0.25, 0.33, 80), str(file), CONFIG)
    data, outputs = evaluated(model.load(None), data_root, 0.6)
    found = data.metrics(outputs)
    assert found["map50_95"] == pytest.approx(33.7, abs=0.5)
    assert found["map50"] == pytest.approx(49.9, abs=0.5)


@pytest.mark.slow
def test_yolov8n_finds_what_ultralytics_own_validation_finds(data_root, tmp_path):
    from ultralytics import YOLO

    file = data_root / "weights" / "yolov8n.pt"
    network = YoloModel("yolov8n.pt", str(file), 640).load(None)
    data, outputs = evaluated(network, data_root, 0.7, images=32)
    chosen = tmp_path / "images"
    chosen.mkdir()
    (tmp_path / "labels").mkdir()
    for name in data.evaluation.ids:
        stem = name.rpartition("/")[2].rpartition(".")[0]
        (chosen / f"{stem}.jpg").write_bytes(data.evaluation.blob(name))
        label = data_root / "coco" / "labels" / "val2017" / f"{stem}.txt"
        if label.is_file():
            (tmp_path / "labels" / label.name).write_bytes(label.read_bytes())
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(data.names))
    (tmp_path / "data.yaml").write_text(
        f"path: {tmp_path}\ntrain: images\nval: images\nnames:\n{names}"
    )
    theirs = YOLO(str(file)).val(
        data=str(tmp_path / "data.yaml"), imgsz=640, batch=4, rect=False, plots=False,
        verbose=False, device="cpu", workers=0, project=str(tmp_path / "runs"),
    )  # fmt: skip
    found = data.metrics(outputs)
    assert found["map50_95"] == pytest.approx(100 * theirs.box.map, abs=0.5)
    assert found["map50"] == pytest.approx(100 * theirs.box.map50, abs=0.8)
