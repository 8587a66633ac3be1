from __future__ import annotations

import pytest

from quant.costs.geometry import LayerGeometry
from quant.costs.measured import Measured, Timing, kernel
from quant.costs.workload import Workload

ONE = LayerGeometry((4, 8), 1, (5, 8), (5, 4))
TWO = LayerGeometry((4, 8), 1, (2, 8), (2, 4))
TABLE = {
    ONE.key: {"int8": Timing(1.0, 0.9, 2.0, 50), "float32": Timing(3.0, 2.5, 4.0, 50)},
    TWO.key: {"int8": Timing(0.5, 0.4, 0.6, 50), "float32": Timing(1.0, 0.5, 4.0, 50)},
}


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ((8, 8), "int8"),
        ((4, 8), "int8"),
        ((4, 16), "float32"),
        ((9, 8), "float32"),
        ((16, 16), "float32"),
        ((32, 32), "float32"),
    ],
)
def test_four_bits_run_as_int8_and_what_has_more_than_eight_as_float32(bits, expected):
    assert kernel(*bits) == expected


def test_a_layer_costs_the_median_of_all_its_calls_added_up():
    workload = Workload("layer", (4, 8), 1, 12, 96, 48, (ONE, TWO, TWO))
    assert Measured(TABLE).cost(workload, 4, 8) == 1.0 + 0.5 + 0.5
    assert Measured(TABLE).cost(workload, 16, 16) == 3.0 + 1.0 + 1.0
    assert [t.high for t in Measured(TABLE).timings(workload, 8, 8)] == [2.0, 0.6, 0.6]


def test_a_layer_that_was_not_timed_is_named():
    other = LayerGeometry((4, 8), 1, (3, 8), (3, 4))
    with pytest.raises(ValueError, match=r"layer x: no int8 timing of 4x8 g1 on 3x8"):
        Measured(TABLE).cost(Workload("x", (4, 8), 1, 3, 24, 12, (other,)), 8, 8)
    with pytest.raises(ValueError, match="workload lists no calls"):
        Measured(TABLE).cost(Workload("x", (4, 8), 1, 3, 24, 12), 8, 8)
