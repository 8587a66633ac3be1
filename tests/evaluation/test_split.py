from __future__ import annotations

import pytest

from evaluation.samples import Samples, choose
from evaluation.split import spared, split


def numbered(start, stop, prefix=""):
    """Samples whose bytes are their numbers, whatever their names."""
    numbers = range(start, stop)
    return Samples(
        ids=tuple(f"{prefix}{i}" for i in numbers),
        labels=(0,) * len(numbers),
        blob=lambda name: name.lstrip("abc").encode(),
        decode=bytes,
        sizes=(1,) * len(numbers),  # all alike, so that bytes decide
    )


def bytes_of(samples):
    return {samples.blob(name) for name in samples.ids}


def test_where_a_number_is_given_it_is_taken_whatever_is_left():
    pool = numbered(0, 20)
    calibration, left = split(pool, pool, 15, most=3, seed=4)
    assert calibration.ids == choose(pool, 15, 4).ids and len(left) == 5
    with pytest.raises(ValueError, match=r"calibrate\.images=21 must lie in 1\.\.20"):
        split(pool, pool, 21, most=3, seed=0)


@pytest.mark.parametrize("total", range(2, 24))
def test_one_folder_is_shared_in_halves(total):
    pool = numbered(0, total)
    calibration, left = split(pool, pool, None, most=1024, seed=1)
    assert len(calibration) == total // 2 and len(left) == total - total // 2
    assert not bytes_of(calibration) & bytes_of(left)


def test_of_a_large_folder_no_more_than_the_most_are_taken():
    pool = numbered(0, 50)
    calibration, left = split(pool, pool, None, most=10, seed=1)
    assert (len(calibration), len(left)) == (10, 40)
    calibration, left = split(numbered(0, 50), numbered(100, 130), None, most=100, seed=1)
    assert (len(calibration), len(left)) == (50, 30), "where nothing is shared all may calibrate"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_is_what_the_same_number_would_give(seed):
    """So that a record with the number gives the same images again."""
    for pool, evaluation in (
        (numbered(0, 21), numbered(0, 21)),
        (numbered(0, 30, "a"), numbered(10, 22, "b")),
        (numbered(0, 12, "a"), numbered(0, 40, "b")),
    ):
        calibration, left = split(pool, evaluation, None, most=1024, seed=seed)
        again, rest = split(pool, evaluation, len(calibration), most=1024, seed=seed)
        assert (again.ids, rest.ids) == (calibration.ids, left.ids)
        assert len(left) >= len(evaluation) / 2
        _, rest = split(pool, evaluation, min(len(calibration) + 1, len(pool)), 0, seed)
        whole = len(calibration) == len(pool)
        assert whole or len(rest) < len(evaluation) / 2, "it takes as many as it can"


def test_copies_of_an_image_leave_the_evaluation_together():
    pool = numbered(0, 2)
    five = Samples(
        ("0", "a0", "b0", "1", "c1"), (0,) * 5, lambda name: name[-1:].encode(), bytes, (1,) * 5
    )
    found = {len(split(pool, five, None, most=9, seed=s)[0]) for s in range(20)}
    assert found == {0, 1}, "three of five are more than half: with them first, none calibrates"


def test_at_most_half_is_spared():
    assert [spared(n, 128) for n in (0, 1, 2, 3, 20, 255, 256, 1000)] == [
        0, 0, 1, 1, 10, 127, 128, 128,
    ]  # fmt: skip
