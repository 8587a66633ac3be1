"""Average precision against two other implementations, and where the answer is known."""

import contextlib
import io
import logging

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

from evaluation.average_precision import average_precision, map_without_groups
from evaluation.boxes import Box


def box(class_index, x1, y1, x2, y2, crowd=0) -> Box:
    return Box(class_index, x1, y1, x2, y2, crowd, (x2 - x1) * (y2 - y1))


def found(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)


def scene(seed, images=12, objects=6, detections=60, classes=5, crowds=True):
    """Random objects; half of the detections lie near one of the same class, some twice.

    Coordinates are eighths and scores 24 bits, so that float32 holds them exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    truths, answers = [], []
    for image in range(images):
        count = objects if image % 4 else 0
        corner = (torch.rand(count, 2, generator=generator) * 300 * 8).round() / 8
        extent = (torch.rand(count, 2, generator=generator) * 150 * 8).round() / 8 + 4
        index = torch.randint(0, classes - 1, (count,), generator=generator)  # one class is absent
        crowd = (torch.rand(count, generator=generator) < 0.2 * crowds).int().tolist()
        shapes = torch.cat([corner, corner + extent], 1).tolist()
        rows = zip(index.tolist(), shapes, crowd, strict=True)
        truths.append(tuple(box(c, *shape, is_crowd) for c, shape, is_crowd in rows))
        guesses = []
        for number in range(detections):
            if count and number % 2:
                pick = int(torch.randint(0, count, (), generator=generator))
                noise = torch.randn(4, generator=generator) * 6
                edges = torch.tensor(shapes[pick]) + (noise * 8).round() / 8
                guess, edges[2:] = int(index[pick]), edges[2:].maximum(edges[:2] + 1)
            else:
                start = (torch.rand(2, generator=generator) * 300 * 8).round() / 8
                size = (torch.rand(2, generator=generator) * 90 * 8).round() / 8 + 1
                edges = torch.cat([start, start + size])
                guess = int(torch.randint(0, classes, (), generator=generator))
            score = float(torch.rand((), generator=generator))
            guesses.append([*edges.tolist(), score, guess])
        answers.append(found(*guesses))
    return answers, truths, classes


def pycocotools(answers, truths, classes):
    """precision [T, R, K] of the reference implementation; -1 for classes without objects."""
    annotations = [
        {
            "image_id": image,
            "category_id": b.class_index,
            "bbox": [b.x1, b.y1, b.x2 - b.x1, b.y2 - b.y1],
            "area": b.area,
            "iscrowd": b.crowd,
        }
        for image, boxes in enumerate(truths, start=1)
        for b in boxes
    ]
    results = [
        {"image_id": i, "category_id": int(c), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
        for i, rows in enumerate(answers, start=1)
        for x1, y1, x2, y2, s, c in rows.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i + 1} for i in range(len(truths))],
            "categories": [{"id": c} for c in range(classes)],
            "annotations": [a | {"id": n} for n, a in enumerate(annotations, start=1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 2]


def mean(precision) -> float:
    return 100 * precision[precision > -1].mean()


@pytest.mark.parametrize("seed", range(4))
def test_random_boxes_give_what_pycocotools_gives(seed):
    answers, truths, classes = scene(seed)
    figures = average_precision(answers, truths, classes)
    expected = pycocotools(answers, truths, classes)
    assert figures["map50_95"] == pytest.approx(mean(expected), rel=0, abs=1e-9)
    assert figures["map50"] == pytest.approx(mean(expected[0]), rel=0, abs=1e-9)
    assert 5 < figures["map50_95"] < figures["map50"] < 95
    assert figures["per_class"][classes - 1] is None
    for index in range(classes - 1):
        by_class = mean(expected[:, :, index])
        assert figures["per_class"][index] == pytest.approx(by_class, rel=0, abs=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_random_boxes_give_what_torchmetrics_gives_up_to_its_float32(seed):
    answers, truths, classes = scene(seed)
    metric = MeanAveragePrecision(backend="pycocotools")
    metric.update(
        [
            {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}
            for rows in answers
        ],
        [
            {
                "boxes": torch.tensor([b[1:5] for b in boxes], dtype=torch.float64).reshape(-1, 4),
                "labels": torch.tensor([b.class_index for b in boxes], dtype=torch.long),
                "iscrowd": torch.tensor([b.crowd for b in boxes], dtype=torch.long),
                "area": torch.tensor([b.area for b in boxes], dtype=torch.float64),
            }
            for boxes in truths
        ],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        expected = metric.compute()
    figures = average_precision(answers, truths, classes)
    assert figures["map50_95"] == pytest.approx(100 * float(expected["map"]), rel=1e-6)
    assert figures["map50"] == pytest.approx(100 * float(expected["map_50"]), rel=1e-6)


def test_more_than_100_detections_of_a_class_count_as_in_pycocotools():
    answers, truths, classes = scene(7, images=5, objects=20, detections=700, classes=3)
    figures = average_precision(answers, truths, classes)
    expected = mean(pycocotools(answers, truths, classes))
    assert figures["map50_95"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_the_101st_detection_of_a_class_does_not_count():
    truths = [(box(0, 0, 0, 10, 10),)]
    wrong = [[500, 500, 510, 510, 0.9, 0]] * 100
    right = [0, 0, 10, 10, 0.1, 0]
    assert average_precision([found(*wrong, right)], truths, 1)["map50_95"] == 0
    hundredth = average_precision([found(*wrong[1:], right)], truths, 1)["map50_95"]
    assert hundredth == pytest.approx(1, abs=1e-9)  # precision 1 / 100 at every recall


def test_perfect_detections_give_100():
    _, truths, classes = scene(0, crowds=False)
    answers = [found(*[[*b[1:5], 0.5, b.class_index] for b in boxes]) for boxes in truths]
    figures = average_precision(answers, truths, classes)
    assert figures["map50_95"] == figures["map50"] == 100
    assert figures["per_class"] == {0: 100, 1: 100, 2: 100, 3: 100, 4: None}


def test_one_of_two_objects_gives_the_recalls_up_to_one_half():
    truths = [(box(0, 0, 0, 10, 10), box(0, 50, 50, 80, 80))]
    figures = average_precision([found([0, 0, 10, 10, 0.9, 0])], truths, 1)
    expected = 100 * 51 / 101  # recalls 0, 0.01 ... 0.50 of 0 ... 1
    assert figures["map50_95"] == pytest.approx(expected, abs=1e-9)
    assert figures["map50"] == pytest.approx(expected, abs=1e-9)


def test_a_box_that_overlaps_by_seven_tenths_counts_at_five_of_ten_thresholds():
    truths = [(box(1, 0, 0, 100, 100),)]
    figures = average_precision([found([0, 0, 100, 71, 0.9, 1])], truths, 3)
    assert figures["map50"] == 100
    assert figures["map50_95"] == pytest.approx(50, abs=1e-9)  # 0.50, 0.55, 0.60, 0.65, 0.70
    assert figures["per_class"] == {0: None, 1: pytest.approx(50, abs=1e-9), 2: None}


def test_a_wrong_detection_costs_by_its_score():
    truths = [(box(0, 0, 0, 10, 10),)]
    right, wrong = [0, 0, 10, 10, 0.5, 0], [50, 50, 60, 60, 0.9, 0]
    assert average_precision([found(right, wrong)], truths, 1)["map50_95"] == pytest.approx(50)
    wrong[4] = 0.1
    assert average_precision([found(right, wrong)], truths, 1)["map50_95"] == pytest.approx(100)


def test_a_class_that_is_absent_does_not_count_in_the_mean_and_another_class_does_not_match():
    truths = [(box(0, 0, 0, 10, 10), box(1, 20, 20, 40, 40))]
    answers = [found([0, 0, 10, 10, 0.9, 0], [20, 20, 40, 40, 0.9, 2])]
    figures = average_precision(answers, truths, 4)
    assert figures["per_class"] == {0: 100, 1: 0, 2: None, 3: None}
    assert figures["map50_95"] == 50


def test_detections_inside_a_crowd_are_not_punished():
    truths = [(box(0, 0, 0, 10, 10), box(0, 100, 100, 300, 300, crowd=1))]
    right, inside = [0, 0, 10, 10, 0.5, 0], [150, 150, 200, 200, 0.9, 0]
    assert average_precision([found(right, inside)], truths, 1)["map50_95"] == 100
    single = [(truths[0][0], truths[0][1]._replace(crowd=0))]
    assert average_precision([found(right, inside)], single, 1)["map50_95"] < 50


def test_the_first_object_of_the_first_image_can_be_found():
    truths = [(box(0, 0, 0, 10, 10),), (box(0, 0, 0, 10, 10),)]
    answers = [found([0, 0, 10, 10, 0.9, 0]), found()]
    expected = pytest.approx(100 * 51 / 101)
    assert average_precision(answers, truths, 1)["map50_95"] == expected
    assert average_precision(answers[::-1], truths[::-1], 1)["map50_95"] == expected


def test_no_detections_at_all_are_zero():
    figures = average_precision([found(), found()], [(), (box(1, 0, 0, 5, 5),)], 2)
    assert figures == {"map50_95": 0.0, "map50": 0.0, "per_class": {0: None, 1: 0.0}}


@pytest.mark.parametrize("truths", [[(), ()], [(box(0, 0, 0, 9, 9, crowd=1),), ()]])
def test_images_without_any_object_are_an_error(truths):
    answers = [found([0, 0, 9, 9, 0.9, 0])] * 2
    with pytest.raises(ValueError, match=r"no object in any of 2 images .*not defined"):
        average_precision(answers, truths, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3, 5), r"image 1 are \[3, 5\]: expected \[k, 6\]"),
        (found([0, 0, 9, 9, 0.5, 2]), r"image 1 .*0\.\.1"),
        (found([0, 0, 9, 9, 0.5, 0.5]), r"image 1 .*0\.\.1"),
        (found([0, 0, 9, 9, 0.5, torch.nan]), "image 1 have non-finite values"),
        (found([0, 0, torch.inf, 9, 0.5, 1]), "image 1 have non-finite values"),
    ],
)
def test_detections_that_cannot_be_right_name_their_image(rows, message):
    truths = [(box(0, 0, 0, 9, 9),)] * 2
    with pytest.raises(ValueError, match=message):
        average_precision([found(), rows], truths, 2)


def test_objects_of_unknown_classes_and_another_number_of_images_are_errors():
    truths = [(box(0, 0, 0, 9, 9), box(5, 0, 0, 9, 9))]
    with pytest.raises(ValueError, match=r"classes \[5\], which are not in 0\.\.4"):
        average_precision([found()], truths, 5)
    with pytest.raises(ValueError, match="detections of 2 images, objects of 1"):
        average_precision([found(), found()], truths, 6)


def test_nothing_is_printed_or_logged_and_nothing_is_changed(capfd, caplog):
    answers, truths, classes = scene(1)
    before = [rows.clone() for rows in answers]
    with caplog.at_level(logging.INFO):
        first = average_precision(answers, truths, classes)
        map_without_groups(answers, truths, classes, 3)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert all(map(torch.equal, before, answers))
    assert average_precision(answers, truths, classes) == first


def test_leaving_groups_out_equals_computing_without_their_images():
    answers, truths, classes = scene(3, images=11)
    figures = map_without_groups(answers, truths, classes, groups=4)
    for group, figure in enumerate(figures):
        kept = [i for i in range(11) if i % 4 != group]
        rest = [answers[i] for i in kept], [truths[i] for i in kept]
        assert figure == average_precision(*rest, classes)["map50_95"]
        assert figure == pytest.approx(mean(pycocotools(*rest, classes)), rel=0, abs=1e-9)
    assert len(figures) == 4 == len(np.unique(figures))


def test_groups_that_cannot_be_left_out_are_errors():
    truths = [(), (box(0, 0, 0, 9, 9),), ()]
    for groups in (1, 4):
        with pytest.raises(ValueError, match=rf"groups={groups} must lie in 2\.\.3"):
            map_without_groups([found()] * 3, truths, 1, groups)
    with pytest.raises(ValueError, match="no object in any of 2 images"):
        map_without_groups([found()] * 3, truths, 1, 3)
