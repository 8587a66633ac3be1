"""Size, bit operations and roofline: figures by hand, and what they must never do."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from quant.costs.bops import Bops
from quant.costs.device import Device, profile
from quant.costs.roofline import Roofline
from quant.costs.size import Size
from quant.costs.workload import Workload, workloads
from quant.grid import fit
from quant.layers import find
from quant.packing import pack

CONV = Workload("conv", (64, 32, 3, 3), 1, positions=100, inputs=3200, outputs=6400)
HEAD = Workload("head", (1000, 512), 1, positions=1, inputs=512, outputs=1000)
NUMBERS = {
    "title": "a device",
    "peak_tops": {4: 40, 8: 20, 16: 10},
    "storage": [4, 8, 16],
    "bandwidth_gb_s": 100,
    "launch_us": 5,
    "batch": 1,
}


def device(**changes):
    return profile(**{**NUMBERS, **changes})


def test_size_counts_codes_and_grids():
    assert Size(4).cost(CONV, 8, 8) == pytest.approx((64 * 288 + 64 * 5) / 1e6, rel=1e-12)
    assert Size(4).cost(CONV, 4, 16) == pytest.approx((64 * 144 + 64 * 5) / 1e6, rel=1e-12)
    assert Size(4).cost(CONV, 12, 16) == pytest.approx((64 * 432 + 64 * 8) / 1e6, rel=1e-12)
    assert Size(4).cost(CONV, 16, 8) == pytest.approx(64 * 288 * 2 / 1e6, rel=1e-12)
    assert Size(4).cost(CONV, 32, 8) == pytest.approx(64 * 288 * 4 / 1e6, rel=1e-12)


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_size_is_what_packed_codes_and_their_grid_really_take(bits):
    W = torch.randn(1, 7, 13, generator=torch.Generator().manual_seed(0))
    grid = fit(
        W,
        bits,
        granularity="channel",
        symmetric=False,
        search="minmax",
        group_size=128,
        norm=2,
        shrink=1,
    )
    stored = (pack(grid.codes(W), bits), grid.scale, grid.zero.to(torch.uint8))
    taken = sum(t.numel() * t.element_size() for t in stored)
    assert Size(4).cost(Workload("", (7, 13), 1, 1, 13, 7), bits, 8) * 1e6 == pytest.approx(taken)


def test_bops_are_macs_times_both_widths():
    assert Bops().cost(CONV, 4, 8) == pytest.approx(64 * 288 * 100 * 32 / 1e9, rel=1e-12)


def test_a_convolution_of_many_positions_is_bound_by_compute():
    workload = Workload(
        "conv", (64, 64, 3, 3), 1, positions=10_000, inputs=640_000, outputs=640_000
    )
    seconds = 2 * 64 * 64 * 9 * 10_000 / 20e12  # 37 us; 13 us of traffic
    assert Roofline(device()).cost(workload, 8, 8) == pytest.approx(1e3 * seconds + 5e-3, rel=1e-12)


def test_a_classifier_of_one_position_is_bound_by_memory():
    seconds = (512_000 * 4 + 1512 * 8) / 8 / 100e9
    assert Roofline(device()).cost(HEAD, 4, 8) == pytest.approx(1e3 * seconds + 5e-3, rel=1e-12)


def test_compute_goes_at_the_slower_operand_and_memory_at_each_ones_bits():
    model = Roofline(device())
    assert model.compute(CONV, 4, 8) == model.compute(CONV, 8, 8) == model.compute(CONV, 8, 4)
    assert (
        model.compute(CONV, 4, 16) == model.compute(CONV, 16, 16) == 2 * model.compute(CONV, 8, 8)
    )
    assert model.compute(CONV, 4, 4) == model.compute(CONV, 8, 8) / 2
    bits = 64 * 288 * 4 + 9600 * 16
    assert model.memory(CONV, 4, 16) == pytest.approx(bits / 8 / 100e9, rel=1e-12)


def test_a_width_that_is_not_there_rounds_up_in_arithmetic_and_storage_on_their_own():
    model = Roofline(device(peak_tops={8: 20, 16: 10}))
    assert model.compute(CONV, 4, 3) == model.compute(CONV, 8, 8)
    assert model.memory(CONV, 3, 5) == model.memory(CONV, 4, 8) < model.memory(CONV, 8, 8)
    with pytest.raises(ValueError, match=r"32 bits: a device computes with 8, 16 bits"):
        model.cost(CONV, 8, 32)


def test_a_batch_shares_the_weights_and_a_layer_used_twice_reads_them_twice():
    one, four = Roofline(device()), Roofline(device(batch=4))
    assert four.compute(CONV, 8, 8) == 4 * one.compute(CONV, 8, 8)
    extra = 3 * 9600 / 100e9
    assert four.memory(CONV, 8, 8) == pytest.approx(one.memory(CONV, 8, 8) + extra, rel=1e-12)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x):
            return self.layer(self.layer(x))

    model, x = Twice().eval(), torch.rand(1, 64)
    workload = workloads(model, x, find(model, x)[0])["layer"]
    seconds = 2 * (64 * 64 + 128) / 100e9
    assert one.cost(workload, 8, 8) == pytest.approx(1e3 * seconds + 2 * 5e-3, rel=1e-12)


@pytest.mark.parametrize("workload", [CONV, HEAD], ids=lambda w: w.name)
@pytest.mark.parametrize("model", [Size(4), Bops(), Roofline(device())], ids=lambda m: m.name)
def test_no_cost_falls_with_more_bits(model, workload):
    widths = (2, 3, 4, 6, 8, 16)
    costs = {(w, a): model.cost(workload, w, a) for w, a in itertools.product(widths, widths)}
    for (w, a), (more_w, more_a) in itertools.product(costs, costs):
        if w <= more_w and a <= more_a:
            assert costs[w, a] <= costs[more_w, more_a], (w, a, more_w, more_a)
    assert costs[2, 2] < costs[16, 16]


@pytest.mark.parametrize("model", [Size(4), Bops(), Roofline(device())], ids=lambda m: m.name)
@pytest.mark.parametrize("bits", [(0, 8), (8, 0), (33, 8), (8, 64)])
def test_what_is_no_number_of_bits_is_refused(model, bits):
    with pytest.raises(ValueError, match=r"(weight|act)_bits=(0|33|64) must lie in 1 \.\.\. 32"):
        model.cost(CONV, *bits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": None}, "device a device: missing batch, unknown nothing"),
        ({"tops": 3}, "missing nothing, unknown tops. The keys of a profile are title, peak_tops"),
        ({"peak_tops": {8: 20, 7: 30}}, "peak_tops lists the width 7"),
        ({"peak_tops": {"int8": 20}}, "peak_tops lists the width 'int8'"),
        ({"peak_tops": {}}, "peak_tops lists no width"),
        ({"peak_tops": 20}, "peak_tops=20 must be {bits: "),
        ({"storage": 8}, "storage=8 must be a list of bits"),
        ({"storage": [4, 5]}, "storage lists the width 5"),
        ({"storage": [4, 8]}, "lists no width of at least 16 bits"),
        ({"peak_tops": {8: -1}}, "peak_tops.8=-1 must be a positive number"),
        ({"peak_tops": {8: 20, 16: 30}}, "lists a width that is slower than a wider one"),
        ({"bandwidth_gb_s": 0}, "bandwidth_gb_s=0 must be a positive number"),
        ({"bandwidth_gb_s": "fast"}, "bandwidth_gb_s='fast' must be a positive number"),
        ({"bandwidth_gb_s": float("nan")}, "bandwidth_gb_s=nan must be a positive number"),
        ({"launch_us": -1}, "launch_us=-1 must be a number, at least 0"),
        ({"batch": 1.5}, "batch=1.5 must be a whole number"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match="device") as error:
        device(**changes)
    assert message in str(error.value)
    assert isinstance(device(), Device)


def test_negative_settings_of_size_are_refused():
    with pytest.raises(ValueError, match=r"scale_bytes=-1 must not be negative"):
        Size(-1)
