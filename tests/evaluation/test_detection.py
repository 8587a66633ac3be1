"""The detection task on a network whose answers are known, and on real images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluation.boxes import Box
from evaluation.coco import Coco
from evaluation.detection import DetectionData, distances
from evaluation.evaluator import CollectOutputs
from evaluation.fidelity import Distance
from evaluation.samples import Samples
from pipelines.machine.machine import Machine

NAMES = ("cat", "dog", "pig")
CONFIG = {"crop_mode": "letterbox", "input_size": (3, 64, 64)}
SETTINGS = {
    "root": None, "calibration_root": None, "batch_size": 2, "workers": 0, "skip_bad": False,
    "images": None, "confidence": 0.001, "iou": 0.7, "max_detections": 5,
}  # fmt: skip
OBJECTS = (
    (Box(0, 10.0, 5.0, 60.0, 45.0, 0, 2000.0),),
    (Box(1, 0.0, 0.0, 30.0, 30.0, 0, 900.0), Box(2, 40.0, 10.0, 90.0, 45.0, 0, 1750.0)),
    (),
    (Box(2, 20.0, 20.0, 80.0, 40.0, 0, 1200.0),),
)
SIZE = (100, 50)  # of every image: in the 64x64 input scaled by 0.64, with bars of 16 pixels


def blob(name):
    return bytes([int(name[1:])])


def decode(content):
    return Image.new("RGB", SIZE, (40 * content[0], 100, 100))


class Fake(DetectionData):
    names = NAMES

    def pools(self):
        def samples(numbers):
            return Samples(
                ids=tuple(f"i{n}" for n in numbers),
                labels=tuple(OBJECTS[n % 4] for n in numbers),
                blob=blob,
                decode=decode,
                sizes=(1,) * len(numbers),
            )

        return samples(range(4, 6)), samples(range(4))


class Oracle(nn.Module):
    """Recognises an image by its colour and answers with its objects; `noise` spoils the maps."""

    def __init__(self, noise=0.0, score=0.9):
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(noise))
        self.score = score

    def forward(self, x):
        numbers = (x[:, 0, 32, 32] * 255 / 40).round().long().tolist()
        maps = torch.full((len(x), 7, 3), 1e-4)
        maps[:, :4] = 1.0
        for answer, number in zip(maps, numbers, strict=True):
            for k, box in enumerate(OBJECTS[number]):
                w, h = box.x2 - box.x1, box.y2 - box.y1
                answer[:4, k] = 0.64 * torch.tensor([box.x1 + w / 2, box.y1 + h / 2 + 25, w, h])
                answer[4 + box.class_index, k] = self.score
        return [maps * (1 + self.noise)]

    def decode(self, maps):
        return maps[0]


def fake(**settings):
    data = Fake(**(SETTINGS | settings))
    data.prepare(CONFIG, 1, 0, 1)
    return data


def collected(data, network, reference=None):
    collect = CollectOutputs(data, network, reference)
    Machine("cpu", 1, "32-true", None).test("test", collect, data.test_dataloader())
    return collect.outputs


def test_a_network_that_finds_everything_has_100_percent_at_the_right_places():
    data = fake()
    outputs = collected(data, Oracle())
    assert data.metrics(outputs) == {"map50_95": 100.0, "map50": 100.0}
    assert outputs["detections"].shape == (4, 5, 6)
    best = outputs["detections"][1]
    best = best[best[:, 4] > 0.5]
    wanted = [[*box[1:5], 0.9, box[0]] for box in OBJECTS[1]]
    assert sorted(best.tolist(), key=lambda r: r[5]) == [pytest.approx(r, abs=1e-3) for r in wanted]
    assert data.details(outputs) == {
        "AP 50-95 by class": {"cat": 100.0, "dog": 100.0, "pig": 100.0}
    }


def test_confidence_and_the_limit_on_detections_count():
    assert (collected(fake(), Oracle(score=0.3))["detections"][..., 4] > 0.2).sum() == 4
    assert (collected(fake(confidence=0.5), Oracle(score=0.3))["detections"] == 0).all()
    assert collected(fake(max_detections=1), Oracle())["detections"].shape == (4, 1, 6)


def test_the_drop_is_that_of_the_main_metric_with_an_interval_around_it():
    data = fake()
    good, bad = collected(data, Oracle()), collected(data, Oracle(noise=0.2))
    drop = data.drop(good, bad)
    assert drop["points"] == pytest.approx(100 - data.metrics(bad)["map50_95"])
    assert drop["points"] > 10 and drop["ci95"][0] < drop["points"] < drop["ci95"][1]
    assert data.drop(good, good) == {"points": 0.0, "ci95": [0.0, 0.0]}


def test_one_image_with_objects_says_nothing_of_the_spread():
    data = fake(images=1)
    outputs = collected(data, Oracle())
    assert data.drop(outputs, outputs) == {"points": 0.0, "ci95": [-100.0, 100.0]}


def test_distances_equal_loops_over_places_and_classes():
    draw = torch.Generator().manual_seed(3)
    wanted, decoded = (torch.rand(2, 4 + 3, 11, generator=draw).double() for _ in range(2))
    wanted[0, 4:] /= 5  # no decision there
    maps = [[torch.randn(2, 5, 3, 2, generator=draw).double() for _ in range(2)] for _ in range(2)]
    for image, row in enumerate(distances(wanted, decoded, *maps).tolist()):
        agreeing = asked = kl = 0.0
        for place in range(11):
            p, q = wanted[image, 4:, place].tolist(), decoded[image, 4:, place].tolist()
            sure = max(p) >= 0.25, max(q) >= 0.25
            asked += any(sure)
            agreeing += all(sure) and p.index(max(p)) == q.index(max(q))
            for a, b in zip(p, q, strict=True):
                kl += a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
        signal = sum(float(m[image].square().sum()) for m in maps[0])
        noise = sum(float((m[image] - n[image]).square().sum()) for m, n in zip(*maps, strict=True))
        assert row == pytest.approx([agreeing, asked, kl, 1, signal, noise], rel=1e-9, abs=1e-9)


def test_fidelity_adds_up_over_images_and_equals_the_distance_of_one_batch():
    data = fake(batch_size=4)
    reference, network = Oracle(), Oracle(noise=0.1)
    outputs = collected(data, network, reference)
    found = data.fidelity({}, outputs)
    (x, _), *_ = data.test_dataloader()
    with torch.no_grad():
        whole = data.distance(network, reference(x), network(x)).figures()
    assert found == pytest.approx(whole)
    assert found["sqnr_db"] == pytest.approx(20, abs=0.1)
    same = collected(data, Oracle(), Oracle())
    assert data.fidelity({}, same) == {"agreement": 100.0, "kl": 0.0, "sqnr_db": math.inf}
    assert Distance(0, 0, 0, 1, 1, 1).figures()["agreement"] == 100.0


def test_networks_that_are_no_detectors_of_these_classes_are_refused():
    data, x = fake(), torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="model x is no detector"):
        data.check_network(nn.Identity(), "x", x)
    data.names = NAMES[:2]
    with pytest.raises(ValueError, match=r"model x outputs \[7, 3\] .* has 2 classes"):
        data.check_network(Oracle(), "x", x)
    with pytest.raises(ValueError, match="crop_mode=center is not letterbox"):
        data.prepare({**CONFIG, "crop_mode": "center"}, 1, 0, 1)


@pytest.mark.parametrize("setting", [{"confidence": 1.0}, {"iou": 0.0}, {"max_detections": 0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(setting))}="):
        Fake(**(SETTINGS | setting))


def test_boxes_are_drawn_into_both_panels_and_only_those_that_are_sure():
    data = fake()
    with torch.no_grad():
        picture = data.picture({"float": Oracle(), "quantized": Oracle(score=0.1)}, 1)
        again = data.picture({"float": Oracle(), "quantized": Oracle()}, 1)
    assert picture.size == again.size
    left, right, right_again = (
        np.asarray(p).reshape(p.height, p.width, 3)[30:, part]
        for p, part in (
            (picture, slice(0, picture.width // 2 - 3)),
            (picture, slice(picture.width // 2 + 3, None)),
            (again, slice(picture.width // 2 + 3, None)),
        )
    )
    assert len(np.unique(left.reshape(-1, 3), axis=0)) > 3
    assert len(np.unique(right.reshape(-1, 3), axis=0)) == 1, "no box is sure"
    assert len(np.unique(right_again.reshape(-1, 3), axis=0)) > 3


@pytest.fixture
def coco(data_root):
    data = Coco(**{**SETTINGS, "root": str(data_root), "batch_size": 4, "max_detections": 300})
    data.prepare({**CONFIG, "input_size": (3, 640, 640)}, 128, 0, 4)
    return data


def test_calibration_takes_train2017_and_evaluation_val2017(coco):
    assert len(coco.calibration) == len(coco.evaluation) == 128
    assert not set(coco.calibration.ids) & set(coco.evaluation.ids)
    assert coco.classes == 80 and coco.dropped == 0
    x, place = next(iter(coco.calibration_loader()))
    assert x.shape == (4, 3, 640, 640) and place.shape == (4, 6)


def test_without_a_folder_the_error_says_what_to_give():
    with pytest.raises(ValueError, match=r"data\.root is not set.*annotations"):
        Coco(**SETTINGS).pools()


def test_a_training_split_of_other_classes_is_refused(tmp_path):
    for split, names in (("train", "01"), ("val", "0")):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a.png")
        listing = {
            "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
            "categories": [{"id": int(n), "name": n} for n in names],
            "annotations": [],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        import json

        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match="2 classes and the evaluation images 1"):
        Coco(**{**SETTINGS, "root": str(tmp_path)}).pools()


def test_what_training_minimises_is_kl_and_errors_of_boxes_where_something_is():
    data, net = fake(), Oracle()
    draw = torch.Generator().manual_seed(0)
    p = torch.cat(
        [20 + 9 * torch.rand(2, 4, 5, generator=draw), torch.rand(2, 3, 5, generator=draw)], 1
    )
    q = torch.cat(
        [20 + 9 * torch.rand(2, 4, 5, generator=draw), torch.rand(2, 3, 5, generator=draw)], 1
    )
    assert float(data.divergence(net, [p], [p]).abs().max()) < 1e-5
    found = data.divergence(net, [p], [q])
    for image in range(2):
        wanted = 0.0
        for k in range(5):
            a, b = p[image, :, k].double(), q[image, :, k].double()
            for c in range(4, 7):
                wanted += a[c] * (a[c] / b[c]).log() + (1 - a[c]) * ((1 - a[c]) / (1 - b[c])).log()
            apart = sum(abs(a[i] - b[i]) for i in range(4)) / 4 / ((a[2] + a[3]) / 2)
            wanted += max(a[4:]) * apart
        assert float(found[image]) == pytest.approx(float(wanted), rel=1e-4)
    same_boxes = torch.cat([p[:, :4], q[:, 4:]], 1)
    kl = float(data.distance(net, [p], [same_boxes]).figures()["kl"])
    assert float(data.divergence(net, [p], [same_boxes]).mean()) == pytest.approx(kl, rel=1e-4)
