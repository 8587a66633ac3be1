"""Altered copies of calibration images."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from evaluation.augmentation import WithCopies, augmented


def images(n=3, h=16, w=24):
    draw = torch.Generator().manual_seed(0)
    return [(torch.rand(3, h, w, generator=draw), number) for number in range(n)]


def moves(x):
    """Every image that `augmented` may make of x, by how."""
    _, h, w = x.shape
    wide = F.pad(x[None], (w // 8, w // 8, h // 8, h // 8), mode="reflect")[0]
    for top, left in itertools.product(range(2 * (h // 8) + 1), range(2 * (w // 8) + 1)):
        moved = wide[:, top : top + h, left : left + w]
        yield (top, left, False), moved
        yield (top, left, True), moved.flip(-1)


def test_a_copy_is_the_image_moved_and_maybe_mirrored():
    ((x, _),) = images(1)
    made = {}
    for seed in range(400):
        (how,) = [how for how, moved in moves(x) if torch.equal(moved, augmented(x, seed))]
        made.setdefault(how, seed)
    assert len(made) > 50, "of 70 ways nearly all occur"
    assert {0, 4} <= {top for top, _, _ in made} and {0, 6} <= {left for _, left, _ in made}


def test_the_images_come_first_as_they_are_then_every_copy_is_another():
    base = images()
    data = WithCopies(base, 2)
    seen = [data[i] for i in range(len(data))]
    assert len(data) == 9 and [y for _, y in seen] == [0, 1, 2] * 3
    assert all(torch.equal(seen[i][0], base[i][0]) for i in range(3))
    assert not torch.equal(seen[3][0], seen[6][0])
    assert all(
        torch.equal(x, augmented(base[i % 3][0], i)) for i, (x, _) in enumerate(seen) if i > 2
    )


@pytest.mark.parametrize("start", [0, 2, 3, 7, 9])
def test_going_on_gives_what_is_left(start):
    every = [x for x, _ in iter(WithCopies(images(), 2))]
    rest = [x for x, _ in iter(WithCopies(images(), 2, start))]
    assert len(WithCopies(images(), 2, start)) == len(rest) == 9 - start
    assert all(torch.equal(a, b) for a, b in zip(rest, every[start:], strict=True))


def test_an_image_too_small_to_move_is_mirrored_at_most():
    x = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert all(
        torch.equal(augmented(x, s), x) or torch.equal(augmented(x, s), x.flip(-1))
        for s in range(9)
    )
