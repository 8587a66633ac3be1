"""When a float network's figures are not to be believed, and when they are."""

import math

import pytest
import torch
from scipy.stats import binom

from evaluation.doubts import (
    MINIMUM,
    SURE,
    USEFUL,
    Passes,
    at_chance,
    of_answers,
    of_confusions,
    of_detections,
    of_passes,
)


@pytest.mark.parametrize("chance", [0.5, 0.1, 0.001])
@pytest.mark.parametrize("total", [1, 10, 100, 700])
def test_a_verdict_is_that_of_the_two_binomial_tests_in_the_long_way(total, chance):
    useful = chance + USEFUL * (1 - chance)
    for right in range(0, total + 1, max(1, total // 20)):
        not_better = binom.sf(right - 1, total, chance) > SURE
        surely_below = binom.cdf(right, total, useful) < SURE
        assert at_chance(right, total, chance) == (not_better and surely_below), right


def test_few_images_say_nothing():
    assert not at_chance(0, 4, 0.1)
    assert not at_chance(1, 10, 0.1)
    assert at_chance(10, 100, 0.1)
    assert not at_chance(40, 100, 0.1)
    assert at_chance(50, 200, 0.5) and at_chance(0, 200, 0.5), "swapped labels are worse"


def test_guessing_and_a_single_answer_are_named():
    labels = torch.arange(200) % 10
    draw = torch.Generator().manual_seed(0)
    assert of_answers(labels, labels, 10, "images") == []
    half = torch.where(torch.arange(200) % 3 > 0, labels, 0)
    assert of_answers(half, labels, 10, "images") == []
    (doubt,) = of_answers(labels[torch.randperm(200, generator=draw)], labels, 10, "images")
    assert "of 200 images, no more than guessing among 10 classes gives (10 %)" in doubt
    guess, same = of_answers(torch.full((200,), 3), labels, 10, "sentences")
    assert "right on 20 of 200 sentences" in guess
    assert "gives class 3 for all 200 sentences, whose labels differ" in same
    assert of_answers(torch.zeros(200).long(), torch.zeros(200).long(), 10, "images") == []


def test_detections_that_miss_everything_are_named_where_there_is_enough_to_find():
    assert of_detections(0.0, MINIMUM - 1) == of_detections(1.0, 500) == []
    assert "0.40 % on 36 objects" in of_detections(0.4, 36)[0]


def maps(images, pixels, share):
    """Confusions of class maps that are right on a share of the pixels, else drawn at random."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (images, pixels), generator=draw)
    other = torch.randint(0, 3, (images, pixels), generator=draw)
    answer = torch.where(torch.rand(images, pixels, generator=draw) < share, truth, other)
    pairs = [(3 * t + a).bincount(minlength=9) for t, a in zip(truth, answer, strict=True)]
    return torch.stack(pairs).reshape(images, 3, 3)


def test_class_maps_that_show_nothing_of_their_images_are_named():
    assert of_confusions(maps(30, 400, 0.5)) == []
    assert of_confusions(maps(MINIMUM - 1, 400, 0.0)) == []
    (doubt,) = of_confusions(maps(30, 400, 0.0))
    assert "on 30 images" in doubt and "would have 20" in doubt
    background = torch.zeros(30, 3, 3, dtype=torch.int64)
    background[:, :, 0] = torch.tensor([80, 15, 5])
    assert of_confusions(background)
    assert of_confusions(torch.zeros(30, 3, 3)) == []


def passes(images, one, other=None):
    found = Passes()
    for start in range(0, len(images), 2):
        part = slice(start, start + 2)
        found.add(images[part], one[part], (one if other is None else other)[part])
    return of_passes(found.record(), "images")


def test_two_passes_that_differ_by_more_than_rounding_are_named():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 4, generator=draw), torch.randn(6, 10, generator=draw)
    assert passes(x, y) == passes(x, y, y * (1 + 1e-5)) == []
    (doubt,) = passes(x, y, y * 1.5)
    assert "50 % apart" in doubt and "F.dropout without training=" in doubt
    assert passes(x, torch.zeros(6, 10), y)


def test_outputs_that_never_change_are_named_unless_the_images_do_not_either():
    draw = torch.Generator().manual_seed(0)
    x, row = torch.randn(6, 4, generator=draw), torch.randn(10, generator=draw)
    (doubt,) = passes(x, row.expand(6, 10))
    assert "the same outputs for 6 different images" in doubt
    assert passes(x[:1].expand(6, 4), row.expand(6, 10)) == []
    assert passes(x[:1], row[None]) == []


def test_several_outputs_count_together():
    found = Passes()
    maps = [torch.ones(2, 3, 4, 4), torch.arange(2.0).reshape(2, 1)]
    found.add(torch.arange(2.0).reshape(2, 1), maps, [maps[0], maps[1] + 1])
    record = found.record()
    assert not record["constant"] and record["images"] == 2
    assert math.isclose(record["difference"], 2 / 97)
