"""A layer that does not fit into memory is refused before anything is calibrated."""

import pytest

from pipelines.machine import room
from quant.layers import Layer

SMALL, LARGE = (
    Layer("small", "small.weight", (8, 100), 1),
    Layer("head", "h.weight", (10, 50_000), 1),
)


def test_a_layer_whose_hessian_does_not_fit_is_named_with_need_and_remedy():
    with pytest.raises(
        MemoryError, match=r"layer head .* 1 x 50000 x 50000 .* takes 80.0 GB"
    ) as err:
        room.check([SMALL, LARGE], obq=False, free=lambda: 79 * 10**9)
    assert "79.0 GB of memory are free" in str(err.value) and "baseline=none" not in str(err.value)
    room.check([SMALL, LARGE], obq=False, free=lambda: 80 * 10**9)


def test_the_copies_of_obq_count_and_can_be_done_without():
    with pytest.raises(MemoryError, match=r"takes 100.0 GB .* baseline=none .* need 80.0 GB"):
        room.check([SMALL, LARGE], obq=True, free=lambda: 99 * 10**9)
    room.check([SMALL, LARGE], obq=True, free=lambda: 100 * 10**9)


def test_the_sums_of_all_layers_must_fit_together():
    many = [Layer(f"l{i}", f"l{i}.weight", (8, 1000), 1) for i in range(100)]
    with pytest.raises(MemoryError, match=r"sums of all 100 layers take 0.8 GB"):
        room.check(many, obq=True, free=lambda: 7 * 10**8)
    room.check(many, obq=True, free=lambda: 9 * 10**8)
    room.check([], obq=True, free=lambda: 0)


def test_something_is_free_here():
    assert 0 < room.available() < 2**50
