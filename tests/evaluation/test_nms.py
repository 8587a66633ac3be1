"""Non-maximum suppression against its definition and against ultralytics."""

from __future__ import annotations

import pytest
import torch
import torchvision  # noqa: F401  (ultralytics uses its NMS only if it is already imported)

from evaluation.coco import Coco
from evaluation.nms import CLASS_OFFSET, MAX_CANDIDATES
from evaluation.nms import non_max_suppression as nms
from pipelines.models.checkpoint import CheckpointModel
from pipelines.models.yolov5 import YOLOv5


def by_definition(image, confidence, iou, detections):
    """Detections for [4 + classes, n]: take the best box left, drop what it overlaps, repeat."""
    left = []
    for place, (x, y, w, h, *probabilities) in enumerate(image.T.tolist()):
        for label, p in enumerate(probabilities):
            if p > confidence:
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                left.append((-p, place, label, box))
    left.sort()
    kept = []
    while left:
        p, _, label, box = left.pop(0)
        kept.append([*box, -p, label])
        left = [o for o in left if o[2] != label or overlap(o[3], box) <= iou]
    return kept[:detections]


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def theirs(decoded, confidence, iou, detections):
    module = pytest.importorskip("ultralytics.utils.nms")
    classes = decoded.shape[1] - 4
    return module.non_max_suppression(
        decoded.float(), confidence, iou, multi_label=True, max_det=detections, nc=classes,
        max_time_img=1e9,
    )  # fmt: skip


def random_boxes(seed, images=2, classes=3, places=200, ties=False):
    draw = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, 2, places, generator=draw) * 100
    size = torch.rand(images, 2, places, generator=draw) * 40 + 1
    probability = torch.rand(images, classes, places, generator=draw)
    if ties:
        centre, size = centre.round(), (size / 8).ceil() * 8
        probability = (probability * 8).round() / 8
    return torch.cat((centre, size, probability), 1)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("confidence", "iou", "most"), [(0.1, 0.5, 300), (0.5, 0.3, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_detections_follow_the_definition(classes, confidence, iou, most, seed):
    decoded = random_boxes(seed, classes=classes, places=60)
    found = nms(decoded, confidence, iou, most)
    for image, boxes in zip(decoded, found, strict=True):
        wanted = torch.tensor(by_definition(image, confidence, iou, most))
        assert len(boxes) > 1
        torch.testing.assert_close(boxes, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [1, 3, 80])
@pytest.mark.parametrize(("confidence", "iou", "most"), [(0.001, 0.7, 300), (0.5, 0.45, 1000)])
def test_detections_and_their_order_equal_those_of_ultralytics(
    classes, confidence, iou, most, ties
):
    for seed in range(2):
        decoded = random_boxes(seed, classes=classes, places=4000 // (20 + classes), ties=ties)
        expected = theirs(decoded, confidence, iou, most)
        for ours, other in zip(nms(decoded, confidence, iou, most), expected, strict=True):
            assert len(ours) > 1 and torch.equal(ours, other)


@pytest.mark.parametrize("ties", [False, True])
def test_the_most_probable_candidates_enter_the_suppression(ties):
    decoded = random_boxes(0, images=1, classes=40, places=1000, ties=ties)
    assert (decoded[:, 4:] > 0.001).sum() > MAX_CANDIDATES
    (ours,), (other,) = (
        nms(decoded, 0.001, 0.3, 10**6),
        theirs(decoded, 0.001, 0.3, 10**6),
    )
    assert torch.equal(ours, other)
    assert ours[:, 4].min() > 0.1, "the least probable candidates were dropped"


def test_an_image_without_a_probable_box_has_no_detections():
    decoded = random_boxes(0)
    decoded[0, 4:] *= 0.01
    nothing, some = nms(decoded, 0.5, 0.7, 300)
    assert nothing.shape == (0, 6) and len(some)
    assert all(
        torch.equal(*pair)
        for pair in zip((nothing, some), theirs(decoded, 0.5, 0.7, 300), strict=True)
    )


def test_a_box_is_detected_for_both_of_its_classes():
    decoded = torch.tensor([[[50.0], [50.0], [20.0], [10.0], [0.6], [0.8]]])
    (found,) = nms(decoded, 0.5, 0.7, 300)
    assert found[:, :4].tolist() == [[40, 45, 60, 55]] * 2 and found[:, 5].tolist() == [1, 0]
    assert found[:, :4].max() < CLASS_OFFSET


def test_boxes_in_half_precision_are_compared_in_float32():
    decoded = random_boxes(1).half()
    for ours, other in zip(
        nms(decoded, 0.1, 0.7, 300), theirs(decoded, 0.1, 0.7, 300), strict=True
    ):
        assert ours.dtype == torch.float32 and torch.equal(ours, other)


@pytest.mark.slow
def test_yolov5n_on_real_images_has_the_detections_of_ultralytics(data_root):
    config = {
        "input_size": [3, 640, 640], "interpolation": "bilinear", "mean": [0.0] * 3,
        "std": [1.0] * 3, "crop_pct": 1.0, "crop_mode": "letterbox",
    }  # fmt: skip
    file = data_root / "weights" / "yolov5n_v6.safetensors"
    network = CheckpointModel("n", lambda: YOLOv5(0.25, 0.33, 80), str(file), config).load(None)
    data = Coco(str(data_root), None, 4, 0, False, 8, 0.001, 0.6, 300)
    data.prepare(network.data_config, 1, 0, 1)
    seen = 0
    with torch.inference_mode():
        for images, _ in data.test_dataloader():
            decoded = network.module.decode(network.module(images))
            for given in (0.001, 0.6, 300), (0.25, 0.45, 100):
                pairs = zip(nms(decoded, *given), theirs(decoded, *given), strict=True)
                for ours, other in pairs:
                    assert torch.equal(ours, other)
                    seen += len(ours)
    assert seen > 1000
